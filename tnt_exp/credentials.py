"""Passwords in addresses: they go to environment variables, never to a file, a log, an error or MLflow.

An address such as `http://user:password@host` is accepted where it is typed. Its password is moved at once to the
variables that MLflow and the database drivers read, and the address is used without it. A run is continued with the
variables set, or with the files that MLflow (`~/.mlflow/credentials`) and PostgreSQL (`~/.pgpass`) read.
"""

import os
import re
from collections.abc import Iterable
from urllib.parse import unquote

_HIDDEN = "[hidden]"
_USERINFO = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<user>[^/?#\s'\"]*)@(?P<rest>[^\s'\"]*)")
_QUERY = re.compile(
    r"(?P<name>(?:^|[?&])(?:password|passwd|pwd|token|access_token|api_key|secret)=)(?P<value>[^&\s'\"]*)", re.I
)


def without_password(address: str) -> str:
    """Return an address without its password, after storing the password in the environment.

    HTTP servers: MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD; the user name leaves the address, too.
    PostgreSQL: PGPASSWORD; the user name stays. MySQL: MYSQL_PWD.
    """
    match = _USERINFO.search(address)
    if match:
        user, colon, password = match["user"].partition(":")
        scheme = match["scheme"].lower()
        if scheme in ("http", "https"):
            pair = {"MLFLOW_TRACKING_USERNAME": user, "MLFLOW_TRACKING_PASSWORD": password}
            _set(pair if colon else {"MLFLOW_TRACKING_TOKEN": user})
            address = f"{match['scheme']}://{match['rest']}"
        elif colon:
            _set({_variable(scheme): password})
            address = f"{match['scheme']}://{user}@{match['rest']}"
    scheme = address.partition(":")[0].lower()
    query = _QUERY.search(address)
    if query:
        name = "MLFLOW_TRACKING_TOKEN" if scheme in ("http", "https") else _variable(scheme)
        _set({name: query["value"]})
        rest = _QUERY.sub("", address)
        address = rest if "?" in rest else rest.replace("&", "?", 1)
    return address


def hide_passwords(text: str) -> str:
    """Return a text in which the passwords of all addresses are replaced, for messages."""
    text = _USERINFO.sub(lambda match: f"{match['scheme']}://{_HIDDEN}@{match['rest']}", text)
    return _QUERY.sub(lambda match: f"{match['name']}{_HIDDEN}", text)


def without_passwords(arguments: Iterable[str]) -> list[str]:
    """Return command-line arguments whose addresses have no passwords (see `without_password`)."""
    return [_USERINFO.sub(lambda match: without_password(match[0]), argument) for argument in arguments]


def _variable(scheme: str) -> str:
    return "MYSQL_PWD" if scheme.startswith(("mysql", "mariadb")) else "PGPASSWORD"


def _set(values: dict[str, str]) -> None:
    os.environ.update({name: unquote(value) for name, value in values.items()})
