"""Whether only root and this user can have written a file: what llmsup runs, and what tells it what to run, must be so.

As OpenSSH's StrictModes and sudo ask it: the file, and every folder on the way to it (and to what each link on the way
leads to), belongs to root or this user and can be written by nobody else. A sticky folder that everybody may write to
(/tmp) is no danger to what is ours in it. A group may write where all its members are root or this user: many systems
give each user a group of their own and a umask of 002. $LLMSUP_TRUSTED_UIDS names further users that are as good as this
one, for containers whose files are mounted from outside.
"""

import os
import re
import shlex
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from supervisor.errors import ConfigError
from supervisor.printable import one_line

TRUSTED_UIDS = "LLMSUP_TRUSTED_UIDS"
ROOT = 0
MAX_LINKS = 40  # as the kernel's own limit
_ACCESS_LIST = (
    "system.posix_acl_access"  # acl(5): where there is one, the group's bits are the most that anybody gets
)
_NUMBERS = re.compile(r"\s*\d+(\s*[,\s]\s*\d+)*\s*")


@dataclass(frozen=True, slots=True)
class Weakness:
    """``why``: "belongs to nobody (uid 65534)"; ``remedy``: the command that mends it."""

    path: str
    why: str
    remedy: str

    def __str__(self) -> str:
        return f"{one_line(self.path)} {self.why}"


@dataclass(frozen=True, slots=True)
class _Entry:
    """Something on the way. ``folder``: there is more of the way in it; ``child``: that next part, where it exists."""

    path: str
    facts: os.stat_result
    child: os.stat_result | None = None


def weakness(
    path: Path | str, *, environ: Mapping[str, str] | None = None, uid: int | None = None
) -> Weakness | None:
    """The outermost place through which others could have written ``path``; None: there is none.

    ``uid``: whose it may be besides root's; None: this user's.

    What does not exist (yet), or may not be looked at, is not weak: whoever opens it will say so.

    Raises:
        ConfigError: $LLMSUP_TRUSTED_UIDS is no list of numbers.
    """
    uid = os.geteuid() if uid is None else uid
    trusted = trusted_uids(os.environ if environ is None else environ, uid)
    try:
        for entry in _way(os.path.join(os.getcwd(), path)):
            if (found := _judge(entry, trusted, uid)) is not None:
                return found
    except OSError:
        return None
    return None


def trusted_uids(environ: Mapping[str, str], uid: int) -> frozenset[int]:
    """Root, that user, and whom $LLMSUP_TRUSTED_UIDS names."""
    text = environ.get(TRUSTED_UIDS, "")
    if text.strip() and not _NUMBERS.fullmatch(text):
        raise ConfigError(
            f"{TRUSTED_UIDS}: expected user numbers, as in 1000,1001, found {one_line(text, 60)!r}"
        )
    return frozenset({ROOT, uid, *map(int, re.findall(r"\d+", text))})


def written_by_others(facts: os.stat_result, path: str, trusted: frozenset[int]) -> str:
    """Who but ``trusted`` may write it, in words that go on after its name; "": nobody."""
    mode = f"(mode {stat.S_IMODE(facts.st_mode):o})"
    if facts.st_mode & stat.S_IWOTH:
        return f"may be written by everybody {mode}"
    if facts.st_mode & stat.S_IWGRP:
        if _has_access_list(path):
            return f"may be written by those in its access list {mode}"
        if not _is_private(facts.st_gid, trusted):
            return f"may be written by {_group(facts.st_gid)} {mode}"
    return ""


def _way(path: str) -> Iterator[_Entry]:
    """Every folder from the root on, also of what links lead to, and at the end the file itself."""
    pending = [part for part in path.split("/") if part not in {"", "."}]
    here, facts, links = "/", os.lstat("/"), 0
    while pending:
        name = pending.pop(0)
        if name == "..":
            here = os.path.dirname(here)
            facts = os.lstat(here)
            continue
        step = os.path.join(here, name)
        try:
            child = os.lstat(step)
        except OSError:
            yield _Entry(here, facts)
            return
        yield _Entry(here, facts, child)
        if stat.S_ISLNK(child.st_mode):
            links += 1
            if links > MAX_LINKS:
                return
            target = os.readlink(step)
            if target.startswith("/"):
                here, facts = "/", os.lstat("/")
            pending[:0] = [part for part in target.split("/") if part not in {"", "."}]
        else:
            here, facts = step, child
    yield _Entry(here, facts)


def _judge(entry: _Entry, trusted: frozenset[int], uid: int) -> Weakness | None:
    facts, quoted = entry.facts, one_line(shlex.quote(entry.path))
    if facts.st_uid not in trusted:
        return Weakness(entry.path, f"belongs to {_user(facts.st_uid)}", f"chown {uid} {quoted}")
    who = written_by_others(facts, entry.path, trusted)
    if not who:
        return None
    sticky = stat.S_ISDIR(facts.st_mode) and facts.st_mode & stat.S_ISVTX
    # In it nobody moves what belongs to somebody else (unlink(2), EPERM); who owns a folder there is asked next, but
    # nobody would ask for the owner of a link.
    if sticky and entry.child is not None:
        foreign = stat.S_ISLNK(entry.child.st_mode) and entry.child.st_uid not in trusted
        if not foreign:
            return None
        return Weakness(entry.path, f"holds a link of {_user(entry.child.st_uid)}'s", "use another folder")
    bits = "".join(
        letter for letter, bit in (("g", stat.S_IWGRP), ("o", stat.S_IWOTH)) if facts.st_mode & bit
    )
    return Weakness(entry.path, who, f"chmod {bits}-w {quoted}")


def _is_private(gid: int, trusted: frozenset[int]) -> bool:
    """Whether all members of the group are trusted, as far as the machine's lists tell."""
    import grp
    import pwd

    try:
        named = {pwd.getpwnam(name).pw_uid for name in grp.getgrgid(gid).gr_mem}
    except KeyError:  # a number without a name, here: nobody can say who is in it
        return False
    # The primary group of some service accounts that never run anything is root's.
    primary = set() if gid == ROOT else {one.pw_uid for one in pwd.getpwall() if one.pw_gid == gid}
    return named | primary <= trusted


def _has_access_list(path: str) -> bool:
    if not hasattr(os, "getxattr"):
        return False
    try:
        return bool(os.getxattr(path, _ACCESS_LIST))
    except OSError:
        return False


def _user(uid: int) -> str:
    import pwd

    try:
        return f"{one_line(pwd.getpwuid(uid).pw_name)} (uid {uid})"
    except KeyError:
        return f"uid {uid}"


def _group(gid: int) -> str:
    import grp

    try:
        return f"the group {one_line(grp.getgrgid(gid).gr_name)}"
    except KeyError:
        return f"the group {gid}"
