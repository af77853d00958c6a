"""What ``twistd nundb`` runs: its options, and how a node sits in twistd's application."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from twisted.application.service import Application, IService, IServiceMaker, MultiService, Service
from twisted.logger import ILogObserver
from twisted.plugin import IPlugin
from twisted.python import usage
from twisted.python.logfile import LogFile
from zope.interface.verify import verifyObject

from nuntwist import tap
from nuntwist.config import NodeConfig
from nuntwist.errors import ConfigError, StartError
from nuntwist.logs import make_observer
from nuntwist.settings import SETTINGS


class FakeNode(Service):
    """Stands where the node would: keeps what it was made with, and fails when told to."""

    def __init__(self, config: NodeConfig, error: BaseException | None = None) -> None:
        self.config = config
        self.error = error

    def privilegedStartService(self) -> None:
        if self.error is not None:
            raise self.error


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[FakeNode]:
    """The nodes that were built, with the composition root replaced."""
    nodes: list[FakeNode] = []
    module = ModuleType("nuntwist.service")

    def make_node_service(config: NodeConfig, reactor: object = None) -> IService:
        nodes.append(FakeNode(config))
        return nodes[-1]

    module.make_node_service = make_node_service  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "nuntwist.service", module)
    for setting in SETTINGS:
        monkeypatch.delenv(setting.variable, raising=False)
    return nodes


def options(*words: str, **twistd: Any) -> tap.Options:
    parsed = tap.Options()
    parsed.parseOptions(list(words))
    parsed.parent = usage.Options()
    parsed.parent.update({"nodaemon": True, **twistd})
    return parsed


def test_every_option_is_explained() -> None:
    text = " ".join(tap.Options().getUsage(width=200).split())
    for setting in SETTINGS:
        if setting.option is not None:
            assert f"--{setting.option}=" in text
            assert setting.variable in text
            assert setting.help in text
    assert "NUN_TCP_ADDR; default 0.0.0.0:3014, without credentials 127.0.0.1]" in text
    assert "[default: None]" not in text


def test_short_forms_are_unique() -> None:
    shorts = [s.short for s in SETTINGS if s.short]
    assert len(set(shorts)) == len(shorts)


def test_options_reach_the_node(made: list[FakeNode]) -> None:
    tap.makeService(options("-u", "ada", "-p", "x", "-t", ":1", "-w", "off", "--dbs-dir=d"))
    config = made[0].config
    assert (config.user, config.password, config.dbs_dir) == ("ada", "x", "d")
    assert config.tcp_endpoints == ("tcp:1:interface=0.0.0.0",)
    assert config.websocket_endpoints == ()


def test_the_environment_reaches_the_node(
    made: list[FakeNode], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NUN_DBS_DIR", "elsewhere")
    monkeypatch.setenv("NUN_LOG_LEVEL", "warn")
    tap.makeService(options("--log-level", "debug"))
    tap.make_tac_service(["-n"])
    assert [n.config.dbs_dir for n in made] == ["elsewhere", "elsewhere"]
    assert [n.config.log_level for n in made] == ["debug", "warn"]


@pytest.mark.parametrize("words", [["--nope"], ["--user"], ["word"]])
def test_a_bad_option_is_one_sentence(words: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        options(*words)
    sentence = caught.value.code
    assert isinstance(sentence, str)
    assert sentence.startswith("nundb: ")
    assert "\n" not in sentence


def test_a_bad_setting_is_one_sentence(made: list[FakeNode]) -> None:
    with pytest.raises(SystemExit) as caught:
        tap.makeService(options("--tcp-address", "0.0.0.0:1"))
    assert str(caught.value.code).startswith("--tcp-address asks to listen on")
    assert made == []


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        options("--version")
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith("nuntwist ")


def test_the_application_gets_our_log_observer(made: list[FakeNode]) -> None:
    application = Application("x")
    service = tap.makeService(options())
    service.setServiceParent(application)
    assert application.getComponent(ILogObserver) is not None
    assert verifyObject(IService, service)
    assert service.parent is IService(application)


@pytest.mark.parametrize("twistd", [{"syslog": 1}, {"logger": "x"}])
def test_a_logger_chosen_with_twistd_stays(made: list[FakeNode], twistd: dict[str, Any]) -> None:
    application = Application("x")
    tap.makeService(options(**twistd)).setServiceParent(application)
    assert application.getComponent(ILogObserver) is None


def test_where_the_log_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(LogFile, "fromFullPath", asked.append)
    assert tap.log_stream({"nodaemon": True}) is sys.stderr
    assert tap.log_stream({"nodaemon": True, "logfile": "-"}) is sys.stdout
    assert tap.log_stream({"nodaemon": 0, "logfile": "-"}) is None
    tap.log_stream({"nodaemon": True, "logfile": "x.log"})
    tap.log_stream({"nodaemon": 0})
    assert asked == ["x.log", "twistd.log"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["-ny", "a.tac"], {"nodaemon": True, "python": "a.tac"}),
        (["--nodaemon", "--python=a.tac"], {"nodaemon": True, "python": "a.tac"}),
        (["-y", "a.tac", "-l", "x.log"], {"nodaemon": False, "logfile": "x.log"}),
        (["-b", "-y", "a.tac"], {"nodaemon": True}),
        (["--syslog", "-y", "a.tac"], {"syslog": True}),
        (["--pidfile=", "-y", "a.tac"], {"nodaemon": False}),
        (["--something", "else"], {"nodaemon": True}),
    ],
)
def test_a_tac_file_sees_the_options_of_twistd(
    arguments: list[str], expected: dict[str, Any]
) -> None:
    settings = tap.twistd_settings(arguments)
    assert {name: settings[name] for name in expected} == expected
    assert os.path.isabs(settings.get("pidfile") or "/")


@pytest.mark.parametrize(
    "error",
    [
        StartError("Port 1 is in use."),
        ConfigError("Port 1 is in use."),
        SystemExit("Port 1 is in use."),
    ],
)
def test_a_failed_start_is_one_sentence_and_status_1(error: BaseException) -> None:
    from twisted.logger import globalLogPublisher

    stream = io.StringIO()
    observer = make_observer(NodeConfig(), stream)
    service = tap.TwistdNode(FakeNode(NodeConfig(), error), None, {})
    globalLogPublisher.addObserver(observer)
    try:
        with pytest.raises(SystemExit) as caught:
            service.privilegedStartService()
    finally:
        globalLogPublisher.removeObserver(observer)
    assert caught.value.code == 1
    (line,) = stream.getvalue().splitlines()
    assert line.endswith(": Port 1 is in use.")


def test_a_programming_error_is_not_hidden() -> None:
    service = tap.TwistdNode(FakeNode(NodeConfig(), ZeroDivisionError()), None, {})
    with pytest.raises(ZeroDivisionError):
        service.privilegedStartService()


@pytest.mark.parametrize(("other", "stays"), [(0, False), (1, True)])
def test_a_failed_start_leaves_no_pid_file_of_its_own(
    tmp_path: Path, other: int, stays: bool
) -> None:
    pid_file = tmp_path / "twistd.pid"
    pid_file.write_text(str(os.getpid() + other))
    node = FakeNode(NodeConfig(), SystemExit(1))
    service = tap.TwistdNode(node, None, {"pidfile": str(pid_file)})
    with pytest.raises(SystemExit):
        service.privilegedStartService()
    assert pid_file.exists() == stays


def test_the_plugin() -> None:
    from twisted.plugins.nuntwist_plugin import nundb

    assert verifyObject(IServiceMaker, nundb)
    assert IPlugin.providedBy(nundb)
    assert nundb.tapname == "nundb"
    assert nundb.options is tap.Options
    assert nundb.makeService is tap.makeService


def test_the_wrapper_passes_start_and_stop_on() -> None:
    node = FakeNode(NodeConfig())
    service = tap.TwistdNode(node, None, {})
    assert isinstance(service, MultiService)
    service.startService()
    assert node.running
    service.stopService()
    assert not node.running
