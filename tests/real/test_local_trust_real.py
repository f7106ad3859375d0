"""Files of strangers on the real binary: a model with a hostile name is served and adds nothing; weak programs are not run."""

import json
import shutil
from pathlib import Path

import pytest

from tests.support.daemon import DaemonUnderTest, answer_of

pytestmark = pytest.mark.real

INJECTED = "dashboard: {enabled: false}"
HOSTILE = f"m\u2028{INJECTED} #\x1b]0;pwned\x07\n{INJECTED}\n.gguf"


def test_a_model_with_a_hostile_name_is_served_by_the_configuration_made_for_it(
    llama_server_binary: Path, demo_model: Path
) -> None:
    with DaemonUnderTest(binary=llama_server_binary) as daemon:
        path = daemon.folder / HOSTILE
        shutil.copy(demo_model, path)
        made = daemon.cli("config", "init", str(path), "-o", str(daemon.config), "--force")
        assert made.returncode == 0, made.stderr
        shown = json.loads(daemon.cli("config", "show", "--changed", "--json").stdout)["values"]
        assert not any(key.startswith("dashboard") for key in shown)
        daemon.environ |= {
            "LLMSUP__LISTEN": f"127.0.0.1:{daemon.port}",
            "LLMSUP__STATE_DIR": str(daemon.state_dir),
            "LLMSUP__LLAMA_SERVER__BINARY": str(llama_server_binary),
        }
        daemon.run()
        daemon.wait_ready()
        assert answer_of(daemon.chat(max_tokens=4))
        doctor = daemon.cli("doctor")
        assert doctor.returncode == 0, doctor.stdout
        assert "\x1b" not in doctor.stdout
        assert "\u2028" not in doctor.stdout


def test_a_real_build_that_others_could_have_changed_is_not_run(
    llama_server_binary: Path, demo_model: Path
) -> None:
    """The build is copied, with its record, into a cache that is safe first and then is not."""
    build = llama_server_binary.parents[1]
    if not (build / "build.json").is_file():
        pytest.skip("a binary that `llmsup build` has not made")
    with DaemonUnderTest(binary="auto", model_path=demo_model) as daemon:
        cache = daemon.folder / "cache"
        (cache / "llama.cpp").mkdir(parents=True)
        shutil.copytree(build, cache / "llama.cpp" / build.name)
        daemon.environ |= {"LLMSUP_CACHE_DIR": str(cache), "PATH": "/usr/bin:/bin"}
        safe = daemon.cli("doctor")
        assert safe.returncode == 0, safe.stdout
        assert str(cache) in safe.stdout
        cache.chmod(0o777)
        weak = daemon.cli("doctor")
        assert weak.returncode == 1
        assert f"{cache} may be written by everybody (mode 777)" in weak.stdout
        assert f"-> chmod go-w {cache}" in weak.stdout
        refused = daemon.cli("start")
        assert refused.returncode != 0
        assert "others could have written it" in refused.stderr
