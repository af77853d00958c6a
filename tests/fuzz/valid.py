"""Right inputs of each target, made by the code that writes them, to be seeds."""

from __future__ import annotations

import base64
import json
import random
import zlib
from pathlib import Path

from nuntwist.archive import nundb
from nuntwist.archive.entries import archive_of, entry
from nuntwist.archive.format import Member
from nuntwist.cluster.ballots import Alive, Ask, Beat, Obeyed, Rank
from nuntwist.cluster.copies import CopyBegins, pieces_of
from nuntwist.cluster.forwards import Forward, Outcome
from nuntwist.cluster.frames import encode as framed
from nuntwist.cluster.greeting import Admitted, Hello
from nuntwist.cluster.identity import FILE_NAME, Identity
from nuntwist.cluster.membership import Membership
from nuntwist.cluster.stream import Have, Records
from nuntwist.core.copying import Outline
from nuntwist.core.forwards import Item
from nuntwist.core.outcomes import encode_replies
from nuntwist.core.signing import keys_from
from nuntwist.files import MemoryFiles
from nuntwist.interfaces import SnapshotHeader
from nuntwist.language.replies import OK, Reply
from nuntwist.oplog import base
from nuntwist.oplog.record import encode
from nuntwist.oplog.segment import SEGMENT_HEAD
from nuntwist.secrets import hash_secret
from nuntwist.storage import format as form
from nuntwist.storage.manifest import Manifest, Part
from nuntwist.testing import client_frame
from nuntwist.values import DATABASE, KEY, KIND, VALUE, VERSION, Epoch, Op, Position
from tests.fuzz.cluster import handshake_lines
from tests.fuzz.signing import NOW
from tests.fuzz.signing import SECRET as SECRET_KEY
from tests.fuzz.storage import NUMBER, PART
from tests.fuzz.target import bundle

EPOCH = Epoch(3, 0x0123456789ABCDEF)
POSITION = Position(EPOCH, 9)
STAMP = 1767323045678 << 16
SECRET = hash_secret(b"token", b"0123456789abcdef", 1)
GOLDEN = Path(__file__).parents[1] / "golden_formats"

OPS: list[Op] = [
    (b"newer " + SECRET, 0, 1, STAMP, 3, 1, b"shop"),
    (SECRET, 0, 2, STAMP + 1, 1, 1, b"$$token"),
    ("värde".encode(), 4, 3, STAMP + 2, 1, 1, "clé".encode()),
    (b"5", 0, 4, STAMP + 3, 1, 1, b"n"),
    (None, -1, 5, STAMP + 4, 2, 1, b"n"),
    (b"arbiter ", 0, 6, STAMP + 5, 3, 6, b"$staged_shop"),
    (SECRET, 0, 7, STAMP + 6, 1, 6, b"$$token"),
    (b"1", 0, 8, STAMP + 7, 5, 6, b"shop"),
    (b"resolve 9 shop 3 k a b", 0, 9, STAMP + 8, 1, 6, b"$conflicts_k_9"),
    (b"a", -2, 10, STAMP + 9, 1, 6, b"k"),
    (b"rw a*|r *", 0, 11, STAMP + 10, 1, 6, b"$$permission_$ann"),
    (b"majority 500", 0, 12, STAMP + 11, 1, 6, b"$$write_concern"),
    (SECRET, 0, 13, STAMP + 12, 1, 6, b"$$user_ann"),
    (b"none ", 0, 14, STAMP + 13, 3, 14, b"old"),
    (b"", 0, 15, STAMP + 14, 4, 14, b"old"),
    (None, 0, 16, STAMP + 15, 6, 0, b""),
]
LAST: list[Op] = [(b"v", 1, 17, STAMP + 16, 1, 6, b"k2")]


def _records() -> bytes:
    batches = (5, OPS[:2]), (5, OPS[2:]), (6, LAST)
    return b"".join(encode(EPOCH, origin, ops) for origin, ops in batches)


def _messages() -> list[bytes]:
    rank = Rank(POSITION, -5, 7)
    return [
        framed(message)
        for message in (
            Ask(4, rank, True, 2),
            Alive(4, rank),
            Beat(4, 1.5),
            Obeyed(4, 2.5, POSITION),
            Have(4, POSITION, ((EPOCH, 1), (Epoch(4, 2), 5))),
            Records(4, POSITION, 8, _records()),
            CopyBegins(4, 3, POSITION, STAMP, (Outline(1, b"shop", b"newer", 5),)),
            Forward(4, 1, 9, (Item(1, b"ann", False, b"set k v"), Item(None, None, True, b"x"))),
            Forward(4, 1, 9, (Item(1, b"ann", False, b"set k v", b"w *", 1.5),)),
            Outcome(4, 1, 9, 12, encode_replies([OK])),
            Hello(4, 7, True, True, True, True, False, -3, POSITION),
            Admitted(4, Membership(7, {1: "a:3014"}).encode()),
        )
    ]


def _archive() -> bytes:
    shop = [entry(b"$$token", SECRET, 0), entry(b"k", "värde".encode(), 3), entry(b"n", b"5", 1)]
    admin = [entry(b"note", b"x", 0)]
    members = [(Member(b"shop2", b"newer"), shop), (Member(b"$admin", b"newer"), admin)]
    return b"".join(archive_of(members, "2026-01-01T00:00:00+00:00", "1.0"))


def _partition() -> bytes:
    header = SnapshotHeader(NUMBER, b"shop", b"newer", 9, EPOCH, 1, STAMP)
    entries = [(b"v", 1, 3, STAMP, 1, NUMBER, b"k"), (b"", 0, 4, STAMP + 1, 1, NUMBER, b"$$x")]
    blocks = [form.begin(header, 0), form.entries(entries), form.entries(entries[:1]), form.end(3)]
    return b"".join(blocks)


def _manifest(number: int = NUMBER) -> bytes:
    data = _partition()
    part = Part(PART, 9, 3, len(data), zlib.crc32(data))
    header = SnapshotHeader(number, b"shop", b"newer", 9, EPOCH, 1, STAMP)
    if not number:
        header = SnapshotHeader(
            0, b"$admin", b"newer", 9, EPOCH, 2, STAMP, ((1, b"shop"), (6, b"b"))
        )
        return Manifest(header, 2, 5, (None, part)).encode()
    return Manifest(header, 1, 5, (part,)).encode()


def _identity() -> bytes:
    files = MemoryFiles()
    one = Identity(files, random.Random(1))
    one.raise_epoch(EPOCH, 9)
    one.note(formed=7, boot="0f3c", clean=False)
    return bytes(files.contents[FILE_NAME])


def _base() -> bytes:
    files = MemoryFiles()
    base.write_base(files, POSITION)
    return bytes(files.contents[base.NAME])


def _nundb() -> bytes:
    def text(data: bytes) -> bytes:
        return len(data).to_bytes(8, "little") + data

    def place(key: bytes, version: int, address: int) -> bytes:
        return (
            text(key) + version.to_bytes(4, "little", signed=True) + address.to_bytes(8, "little")
        )

    values = text(b"one") + bytes(4) + text("två".encode()) + bytes(4)
    keys = place(b"a", 1, 0) + place("b\u00e9".encode(), 7, 15) + place(b"gone", nundb.DELETED, 0)
    meta = (1).to_bytes(8, "little") + (2).to_bytes(4, "little")
    return bundle(meta, keys + place(b"a", 2, 15), values)


_REQUEST = (
    b"POST / HTTP/1.1\r\nHost: localhost:3013\r\nContent-Length: 44\r\n\r\n"
    b"use-db d t;set a 2; get a;keys;nope;get-safe"
)
_CHUNKED = (
    b"POST /x HTTP/1.1\r\nHost: [::1]:1\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"9\r\nuse-db d \r\n7\r\nt;get a\r\n0\r\n\r\nGET / HTTP/1.1\r\nHost: h.example\r\n\r\n"
)
_UPGRADE = (
    b"GET /p HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Origin: https://example.com\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    b"Sec-WebSocket-Version: 13\r\n\r\n"
)
_LINES = [
    b"get a\nset a v w\nset-safe a 3 x\nget-safe a\nincrement n 2\nkeys\nwatch a\nremove a\nping\n",
    b"set a 1;\r\nget a\r\n\nget $$token\nset $x 1\nunwatch-all\nuse-db d t\nget a\nkeys a*\n",
    "set é ü\nget é\nincrement a\nset n 9223372036854775807\nincrement n\nset a \n".encode()
    + b"write-concern majority 5\nwrite-concern\nread-concern local\nget "
    + b"x" * 450
    + b"\nget n\n",
]
_FRAMES = [
    b"".join(client_frame(line) for line in _LINES[0].split(b"\n")),
    client_frame(b"set a 1;get a;keys") + client_frame("set é ü".encode(), mask=b"abcd"),
    client_frame(b"ping!", 9) + client_frame(b"get a", 1)[:-2],
    client_frame(b"\x03\xe8bye", 8) + client_frame(b"get a"),
    b"\x01" + client_frame(b"set a ")[1:] + client_frame(b"and more", 0) + client_frame(b"get a"),
    client_frame(b"bin", 2) + client_frame(b"get a"),
    client_frame(b"set a " + b"x" * 300) + client_frame(b"get a") + client_frame(b"y" * 500),
    client_frame(b"\xff\xfe") + client_frame(b"get a"),
]


_RSA = (
    b'{"keys":[{"kty":"RSA","kid":"one","use":"sig","alg":"RS256","e":"AQAB","n":"%b"}]}'
    % base64.urlsafe_b64encode(b"\xc5" * 255 + b"\x01").rstrip(b"=")
)
# The base point of P-256 is on the curve.
_POINT = (
    bytes.fromhex("6b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296"),
    bytes.fromhex("4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5"),
)
_EC = b'{"kty":"EC","crv":"P-256","x":"%b","y":"%b"}' % tuple(
    base64.urlsafe_b64encode(number).rstrip(b"=") for number in _POINT
)
_PEM = b"-----BEGIN PUBLIC KEY-----\n%b\n-----END PUBLIC KEY-----\n" % base64.b64encode(
    bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d03010703420004") + b"".join(_POINT)
)
_OF_AN_ADMIN = [
    [
        *(b"create-db e t newer", b"use-db e t", b"set k 1", b"set-safe k 3 2", b"snapshot true e"),
        *(b"create-user ann s", b"set-permissions ann rw k*|r *|l -", b"set-permissions all r *"),
        *(b"get-permissions ann", b"set-token close ann u", b"list-users", b"drop-user ann"),
        *(b"use-db $admin nun-pwd", b"set note x", b"keys", b"drop-db e", b"metrics-state"),
    ],
    [
        *(
            b"create-db c t arbiter",
            b"use-db c t",
            b"arbiter",
            b"set-safe k 5 a",
            b"set-safe k 1 b",
        ),
        *(b"set-safe k 1 c", b"debug pending-conflicts", b"resolve 1 c k 3 v", b"get-safe k"),
        *(b"replicate d a 7 v", b"replicate-remove d a", b"replicate-increment d n 5"),
        *(b"replicate-snapshot d|c true", b"rp 5 set-safe k 2147483647 v", b"oplog-clean 0"),
    ],
    [
        *(b"backup-begin d", b"backup-read 1", b"backup-drop 1", b"restore-begin merge d"),
        *(
            b"restore-write 1 TlVOQkFDSwo=",
            b"restore-commit 1",
            b"restore-drop 1",
            b"debug elections",
        ),
        *(b"cluster-state json", b"debug list-dbs json", b"oplog-state", b"help set", b"ack 1 n"),
        *(b"set-primary x", b"election candidate 1 n", b"election win", b"replicate-since n 5"),
        *(b"set-write-concern 1 20", b"set a 2", b"set-write-concern default", b"join a:1"),
        *(b"leave a:1", b"set-secoundary x", b"increment n 9223372036854775807", b"increment n"),
    ],
]


def valid() -> dict[str, list[bytes]]:
    """Some inputs of each target."""
    records, archive = _records(), _archive()
    by_peer = handshake_lines()
    frames = b"".join(_messages())
    golden = [path.read_bytes() for path in sorted(GOLDEN.glob("*.seg"))]
    return {
        "tcp": _LINES,
        "admin": [b"\n".join(lines) for lines in _OF_AN_ADMIN],
        "websocket": _FRAMES,
        "upgrade": [_UPGRADE + client_frame(b"ping"), _UPGRADE.replace(b"13", b"99"), _REQUEST],
        "http": [_REQUEST, _CHUNKED, _REQUEST.replace(b"44", b"4400"), b"HEAD / HTTP/1.0\r\n\r\n"],
        "small-frames": _FRAMES,
        "host": [b"localhost:3013", b"a-b.example.com", b"[::1]:3013"],
        "lines": [*_LINES, b"x" * 64 + b"\n" + b"y" * 65 + b"\nget k"],
        "split": [b"get a; get b ;\r\n;set k a\nb", b"keys"],
        "command": [line for lines in _LINES for line in lines.split(b"\n") if line]
        + [b"resolve 7 shop k 3 some value", b"rp 1 set-safe k -1 v", b"snapshot false a|b;"],
        "number": [b"12", b"-9223372036854775808", b"+7"],
        "concern": [b"majority", b"primary 500", b"3 3600000"],
        "permissions": [b"rw some*,other|i count|r *\nsome-key", b"l -|x *b,c\nab"],
        "token": [
            json.dumps(
                {"db": ["d", "e"], "sub": "ann", "exp": NOW + 60, "nbf": NOW, "aud": "nuntwist"}
            ).encode(),
            b'{"db": "d", "sub": "b", "exp": 1e12, "permissions": "rw a*|r *"}',
        ],
        "signing-keys": [SECRET_KEY, keys_from(SECRET_KEY).text, _RSA, _EC, _PEM],
        "link": [by_peer[0] + frames, by_peer[1] + frames, b"ok \nrefused no such thing\n"],
        "peer-frames": [*_messages(), frames],
        "copy-piece": [piece for piece, _ in pieces_of([(1, OPS[1:4]), (6, OPS[6:8])])],
        "records": [records],
        "outcomes": [encode_replies([OK, Reply((b"value 1\n", b"x")), Reply((), b"no")])],
        "members": [Membership(7, {1: "a:3014", 2: "[::1]:3014"}).encode()],
        "marker": [b"17 .+3:abc.", b"0"],
        "segment": [SEGMENT_HEAD + records, *golden],
        "start": [SEGMENT_HEAD + records, *golden[1:]],
        "replay": [
            b"\n".join(
                b"%d %d %d %b %b" % (op[KIND], op[DATABASE], op[VERSION], op[KEY], op[VALUE] or b"")
                for op in OPS
            ),
            b"3 1 0 d arbiter x\n1 1 0 $$token x\n1 1 3 k a\n"
            b"1 1 0 $conflicts_k_4 resolve 4 d 3 k a b\n1 1 -2 k a\n"
            b"1 1 0 $conflicts_k_6 resolve 6 d 4 k $conflicts_k_4 c\n2 1 -1 gone",
            b"3 1 0 d none x\n1 1 0 $$permission_$all r *\n1 1 0 $$write_concern 2 100\n1 0 0 n 5\n"
            b"1 1 0 $$token x\n5 1 0 e\n3 7 0 d newer y\n5 7 0 e 1\n4 7 0 e\n6 0 0",
        ],
        "oplog-base": [_base(), (GOLDEN / "oplog-base-1").read_bytes()],
        "divergent": [b"divergent-00000000000000000003-00000000000000000009.op"],
        "identity": [_identity()],
        "partition": [_partition()],
        "manifest": [_manifest(), _manifest(0)],
        "snapshot": [bundle(_manifest(), _partition())],
        "s3-keys": [b"0/manifest.json\n7/manifest.json\n7/1-%016x-%08x-00.part\n8/x.part" % (5, 6)],
        "secret": [SECRET, hash_secret(b"other", b"salt", 2)],
        "archive": [archive],
        "restore": [archive],
        "entries": [
            b"arbiter shop2\n0 $$token %b\n3 k v\n-2 c a\n" % SECRET
            + b"0 $conflicts_c_4 resolve 4 shop2 3 c a b\n0 $conflicts_c_9 resolved b\n1 n 5",
            b"newer $admin\n0 note x\n0 $$user_a x\n0 $$permission_$a r *",
            b"none shop\n0 $$token %b\n9 apple 3\n0 $$write_concern 1\n0 $$user_ann %b"
            % (SECRET, SECRET),
        ],
        "json-lines": [json.dumps({"key": "k", "value": "värde", "version": 3}).encode() + b"\n{}"],
        "nundb": [_nundb()],
        "address": [b"127.0.0.1:3014,[::1]:3014", b"tls:node:3014:timeout=3", b"unix:/run/n.sock"],
        "setting": [
            b"NUN_MAX_OP_LOG_SIZE=64 KiB",
            b"NUN_HEARTBEAT_INTERVAL=100",
            b"NUN_REPLICATE_ADDR=a:1,tls:b:2",
            b"NUN_WS_ADDR=ssl:3012:privateKey=key.pem:interface=127.0.0.1",
            b"NUN_ALLOWED_ORIGINS=https://a.example:8080,null",
            b"NUN_CONFLICT_TIMEOUT=0.5",
        ],
        "answer": [
            b"value-version 3 x\n;value-version -1 a;b\n",
            b"backup-data aGVsbG8=\n;backup-end\n",
            b"restored 1 22\n",
            b"dbs-list \nshop : newer\n$admin : none\n",
            b"keys a,b\n;empty;unknown command: nope",
        ],
    }
