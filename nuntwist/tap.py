"""What ``twistd nundb`` runs: options, and the node as a service of twistd.

``makeService`` reads options and environment into a NodeConfig, has
:func:`nuntwist.service.make_node_service` build the node, and wraps it in a
:class:`TwistdNode`, which knows twistd's ways so that the node need not:

- Logging.  twistd takes its log observer from the application's ILogObserver component, if
  there is one.  The wrapper puts ours there when it is given its parent, so every line from
  the first on has our format and nothing is written twice.  Where twistd was told
  ``--logger`` or ``--syslog`` that stays; ``--logfile`` and the ``twistd.log`` of a daemon are
  kept, in our format.
- Failing.  A start that cannot succeed ends in one sentence and exit status 1, and the pid
  file that twistd has written by then goes.

A .tac file has no options of its own and cannot see twistd's, so ``make_tac_service`` reads
twistd's from the command line.
"""

from __future__ import annotations

import contextlib
import getopt
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from twisted.application.service import IService, MultiService
from twisted.logger import ILogObserver, Logger
from twisted.python import usage
from twisted.python.components import Componentized
from twisted.python.logfile import LogFile

from nuntwist import __version__
from nuntwist.config import make_config
from nuntwist.errors import ConfigError, StartError
from nuntwist.logs import Stream, make_observer
from nuntwist.settings import SETTINGS, Setting

TwistdSettings = Mapping[str, Any]
"""Settings of twistd itself, as its options name them: logfile, syslog, nodaemon, ..."""


def _parameter(setting: Setting) -> list[str | None]:
    effect = "" if setting.in_effect else "; without effect in this release"
    default = f"; default {setting.default}" if setting.default else ""
    if setting.default.startswith("0.0.0.0:"):
        default += ", without credentials 127.0.0.1"
    doc = f"{setting.help} [{setting.variable}{default}{effect}]"
    return [str(setting.option), setting.short, None, doc]


class Options(usage.Options):
    """The options of ``twistd nundb``, from the table of settings.

    None is what an option holds that was not given, so that the environment is asked next.
    """

    synopsis = "[options]"
    longdesc = (
        "Runs a nuntwist node: a real-time key-value database over TCP, WebSocket and HTTP."
        " In brackets: the environment variable that an option overrides, and the default."
        " Without user and password the node listens on 127.0.0.1 only. A password given as an"
        " option can be seen in the list of processes: prefer NUN_PWD."
    )
    optParameters: ClassVar[list[list[str | None]]] = [
        _parameter(setting) for setting in SETTINGS if setting.option is not None
    ]

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """Read the command line.

        :raise SystemExit: it is wrong; one sentence instead of twistd's page of help.
        """
        try:
            super().parseOptions(options)
        except usage.UsageError as error:
            raise SystemExit(f"nundb: {error}; see twistd nundb --help.") from None

    def parseArgs(self, *words: str) -> None:
        """Refuse what is no option.

        :raise UsageError: there is something.
        """
        if words:
            raise usage.UsageError(f"{words[0]!r} is not an option")

    def opt_version(self) -> None:
        """Show the version and exit."""
        print(f"nuntwist {__version__}")
        raise SystemExit(0)


class TwistdNode(MultiService):
    """A node as twistd runs it; see the head of this module.

    :param node: the node.
    :param observer: the log observer for the application; None leaves twistd's own.
    :param twistd: the settings of twistd.
    :param log_file: the file that is logged to, if it is one; rotated on SIGUSR1, as twistd
        does with its own.
    """

    _log = Logger()

    def __init__(
        self,
        node: IService,
        observer: ILogObserver | None,
        twistd: TwistdSettings,
        log_file: LogFile | None = None,
    ) -> None:
        super().__init__()
        node.setServiceParent(self)
        self._observer = observer
        self._twistd = twistd
        self._log_file = log_file

    def setServiceParent(self, parent: Any) -> None:
        """Join the application, and give it the log observer."""
        if self._observer is not None and isinstance(parent, Componentized):
            parent.setComponent(ILogObserver, self._observer)
        super().setServiceParent(parent)

    def privilegedStartService(self) -> None:
        """Let the node listen."""
        with self._failing_clearly():
            super().privilegedStartService()

    def startService(self) -> None:
        """Let the node run."""
        if self._log_file is not None:
            rotate = self._log_file.rotate
            signal.signal(signal.SIGUSR1, lambda *_: rotate())
        with self._failing_clearly():
            super().startService()

    @contextlib.contextmanager
    def _failing_clearly(self) -> Iterator[None]:
        try:
            yield
        except (StartError, ConfigError, SystemExit) as error:
            self._remove_pid_file()
            code = error.code if isinstance(error, SystemExit) else str(error)
            if not isinstance(code, str):
                raise
            self._log.critical("{sentence}", sentence=code)
            if self._log_file is not None and sys.__stderr__ is not None:
                sys.__stderr__.write(f"{code}\n")
            raise SystemExit(1) from None

    def _remove_pid_file(self) -> None:
        """twistd removes it after a run, but not after a start that ended the process."""
        path = Path(self._twistd.get("pidfile") or os.devnull)
        with contextlib.suppress(OSError):
            if path.is_file() and path.read_text().strip() == str(os.getpid()):
                path.unlink()


def makeService(options: Options) -> IService:
    """Build the node for ``twistd nundb`` (the name is the one that twistd asks for).

    :raise SystemExit: a setting is wrong; its text is the sentence for the operator.
    """
    return _make(dict(options), options.parent or {})


def make_tac_service(arguments: Sequence[str]) -> IService:
    """Build the node for a .tac file: settings come from the environment alone.

    :param arguments: the command line of twistd, without its name.
    :raise SystemExit: a setting is wrong.
    """
    return _make({}, twistd_settings(arguments))


def _make(options: Mapping[str, str | None], twistd: TwistdSettings) -> IService:
    try:
        config = make_config(options, os.environ)
        # Imported late: --help and a wrong setting need no node.
        from nuntwist.service import make_node_service

        node = make_node_service(config)
    except (ConfigError, StartError) as error:
        raise SystemExit(str(error)) from None
    stream = log_stream(twistd)
    observer = None if stream is None else make_observer(config, stream)
    return TwistdNode(node, observer, twistd, stream if isinstance(stream, LogFile) else None)


def log_stream(twistd: TwistdSettings) -> Stream | None:
    """Give what to log to, or None where that is twistd's own affair."""
    name = twistd.get("logfile") or ""
    foreground = bool(twistd.get("nodaemon"))
    if twistd.get("logger") or twistd.get("syslog") or (name == "-" and not foreground):
        return None
    if name == "-":
        return sys.stdout
    if not name and foreground:
        return sys.stderr
    log_file: Stream = LogFile.fromFullPath(name or "twistd.log")
    return log_file


def twistd_settings(arguments: Sequence[str]) -> dict[str, Any]:
    """Read twistd's own options from its command line, without acting on them."""
    # Its public home, which has no __all__ for it.
    from twisted.scripts.twistd import ServerOptions  # type: ignore[attr-defined]

    table = ServerOptions()
    try:
        given, _ = getopt.getopt(list(arguments), table.shortOpt, table.longOpt)
    except getopt.error:
        # Not twistd's command line: something else has loaded the file.
        return {"nodaemon": True}
    settings: dict[str, Any] = dict(table.opts)
    for option, value in given:
        name = table.synonyms.get(option.lstrip("-").replace("-", "_"), option.lstrip("-"))
        settings[name] = value if f"{name}=" in table.longOpt else True
    settings["nodaemon"] = bool(settings.get("nodaemon") or settings.get("debug"))
    if settings.get("pidfile"):
        settings["pidfile"] = os.path.abspath(settings["pidfile"])
    return settings


__all__ = ["Options", "TwistdNode", "makeService", "make_tac_service"]
