"""A llama-server, the fake or the real one, that does something before it begins."""

import shlex
from pathlib import Path

# In the group of the child and deaf to SIGTERM; and in a session of its own, so that no signal to the group reaches it.
MEMBER, ESCAPED = "sleep 301", "sleep 302"
GRANDCHILDREN = f"(trap '' TERM; exec {MEMBER}) & setsid {ESCAPED} &"
FORKS_AWAY = '"$program" "$@" & exit 0'
STANDS_STILL = "kill -STOP $$"
# Waits, the first time, until somebody has had the chance of taking the port it was told.
AWAITS_GO = (
    '[ -e "$0.go" ] || { echo "$@" > "$0.told"; mv "$0.told" "$0.args";'
    ' while [ ! -e "$0.go" ]; do sleep 0.01; done; }'
)


def wrap(program: Path | str, path: Path, before: str) -> Path:
    """Write an executable at ``path`` that runs ``before``, a line of shell, when it is started as a server."""
    path.write_text(
        "#!/bin/sh\n"
        f"program={shlex.quote(str(program))}\n"
        'if [ -n "$LLAMA_API_KEY" ]; then\n'  # not when it is only asked for its version
        f"  {before}\n"
        "fi\n"
        'exec "$program" "$@"\n'
    )
    path.chmod(0o755)
    return path


def told_port(path: Path) -> int:
    """What a wrapped server that `AWAITS_GO` was told to listen on; 0 while it has not begun."""
    try:
        words = Path(f"{path}.args").read_text().split()
    except FileNotFoundError:
        return 0
    return int(words[words.index("--port") + 1])
