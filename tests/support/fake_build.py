"""A compiler tool set made of shell scripts, and a llama.cpp of three files, for tests of `llmsup build`.

Switches in the environment: FAKE_LOG (each tool appends a line a run or step), FAKE_GATE (the second
compile step waits until this file exists), FAKE_FAIL (printed by the second step, which then fails).
"""

import hashlib
import io
import tarfile
from pathlib import Path

from supervisor.proc.building.source import Sdist

SERVER_SCRIPT = """\
#!/bin/sh
case "$1" in
--version) echo "version: 9.9 (build 1, commit abc)" >&2 ;;
--help) printf '%s\\n' '-h,    --help, --usage      print usage' '--metrics    enable (see --nothing)' ;;
esac
"""
_COMPILER = '#!/bin/sh\necho "fake $(basename "$0") 12.2"\n'
_CMAKE = """\
#!/bin/sh
PATH=/usr/bin:/bin
[ "$1" = --version ] && { echo "cmake version 3.25.1"; exit 0; }
[ -n "$FAKE_LOG" ] && echo configure >> "$FAKE_LOG"
echo "-- Configuring done"
"""
# Like ninja: a step that was done is not done again, and a dead reader ends it at its next line.
_NINJA = """\
#!/bin/sh
PATH=/usr/bin:/bin
tree=$2
[ -n "$FAKE_LOG" ] && echo "compile $3" >> "$FAKE_LOG"
for n in 1 2 3; do
  if [ ! -e "$tree/$n.o" ]; then
    if [ $n = 2 ]; then
      [ -n "$FAKE_FAIL" ] && { echo "$FAKE_FAIL"; exit 1; }
      [ -n "$FAKE_GATE" ] && while [ ! -e "$FAKE_GATE" ]; do sleep 0.02; done
    fi
    [ -n "$FAKE_LOG" ] && echo "step $n" >> "$FAKE_LOG"
    : > "$tree/$n.o"
  fi
  echo "[$n/3] Building CXX object $n.o" || exit 1
done
shift 3
mkdir -p "$tree/bin"
for target; do
  cat > "$tree/bin/$target" <<'EOF'
@SERVER@EOF
  chmod +x "$tree/bin/$target"
done
""".replace("@SERVER@", SERVER_SCRIPT)


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def tools(folder: Path) -> Path:
    """A folder to be the whole PATH."""
    for name in ("cc", "c++"):
        script(folder / name, _COMPILER)
    script(folder / "cmake", _CMAKE)
    script(folder / "ninja", _NINJA)
    return folder


FILES = {
    "CMakeLists.txt": "project(llama.cpp)\n",
    "tools/server/s.cpp": "int main(){}\n",
    "tools/fit-params/f.cpp": "\n",
}


def llama_cpp(folder: Path) -> Path:
    for name, text in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def sdist(path: Path, extra: dict[str, str] | None = None, links: dict[str, str] | None = None) -> Sdist:
    """An archive like the pinned one, at `path / filename`; returns what would pin it."""
    pin = Sdist("fake-llama", "1.0", "", 1000, "vendor/llama.cpp", "abc", "no_such_backend.build")
    contents = {f"{pin.top}/{pin.subtree}/{name}": text for name, text in FILES.items()}
    contents |= {
        f"{pin.top}/{pin.subtree}/.git": "gitdir: ../../.git/modules/vendor/llama.cpp\n",
        f"{pin.top}/setup.py": "raise SystemExit('must never run')\n",
        f"{pin.top}/pyproject.toml": (
            f'[build-system]\nrequires = ["no-such-thing"]\nbuild-backend = "{pin.build_backend}"\n'
        ),
        f"{pin.top}/PKG-INFO": "Metadata-Version: 2.1\nName: fake-llama\nVersion: 1.0\n",
    }
    contents |= extra or {}
    path.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path / pin.filename, "w:gz") as tar:
        for name, text in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))
        for name, target in (links or {}).items():
            member = tarfile.TarInfo(f"{pin.top}/{pin.subtree}/{name}")
            member.type, member.linkname = tarfile.SYMTYPE, target
            tar.addfile(member)
    digest = hashlib.sha256((path / pin.filename).read_bytes()).hexdigest()
    return Sdist("fake-llama", "1.0", digest, 1000, pin.subtree, pin.commit, pin.build_backend)
