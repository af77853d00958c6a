"""auth, create-user, set-permissions."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred

from nuntwist.core.conflicts import ANY_VERSION
from nuntwist.core.database import PERMISSION_PREFIX, USER_PREFIX
from nuntwist.core.handlers.common import selected
from nuntwist.core.handlers.writing import write_secure
from nuntwist.language.replies import Reply

if TYPE_CHECKING:
    from nuntwist.core.client import Client
    from nuntwist.core.node import Node


def auth(node: Node, client: Client, arguments: tuple[bytes, bytes]) -> Reply:
    """Make this connection an admin's; a wrong try takes nothing away."""
    user, password = arguments
    right_user = hmac.compare_digest(user, node.info.user)
    right_password = is_password(node, password)
    if right_user and right_password:
        client.admin = True
    else:
        node.note_refused_login(client)
    return Reply((b"valid auth\n" if client.admin else b"invalid auth\n",))


def is_password(node: Node, given: bytes) -> bool:
    """Whether it is the admin's password; spaces around it, which some clients send, do not count
    unless it has them."""
    password = node.info.password
    exactly = hmac.compare_digest(given, password)
    return hmac.compare_digest(given.strip(b" "), password) or exactly


def create_user(node: Node, client: Client, arguments: tuple[bytes, bytes]) -> Deferred[Reply]:
    """Create a user, or give one a new token."""
    name, token = arguments
    return write_secure(node, client, selected(client), USER_PREFIX + name, token, ANY_VERSION)


def set_permissions(node: Node, client: Client, arguments: tuple[bytes, bytes]) -> Deferred[Reply]:
    """Set what a user, or everybody with the database's token, may do."""
    name, listed = arguments
    return write_secure(
        node, client, selected(client), PERMISSION_PREFIX + name, listed, ANY_VERSION
    )
