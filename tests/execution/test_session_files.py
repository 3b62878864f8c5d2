"""The files of a Ray that is started here are closed to other users."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from side_ray.execution.session import _make_token_private


def test_the_token_is_made_and_kept_private(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    _make_token_private()
    token = tmp_path / ".ray" / "auth_token"
    assert token.stat().st_mode & 0o777 == 0o600
    assert len(bytes.fromhex(token.read_text())) == 32
    before = token.read_text()
    token.chmod(0o644)
    _make_token_private()
    assert token.stat().st_mode & 0o777 == 0o600
    assert token.read_text() == before


START = """
import os, ray
from pathlib import Path
from side_ray.config import ClusterSection
from side_ray.execution.session import ensure_ray, own_ray
with own_ray():
    ensure_ray(ClusterSection())
    session = Path(ray._private.worker._global_node.get_session_dir_path())
    modes = [oct(each.stat().st_mode & 0o777) for each in (session, session.parent.parent.parent)]
    print(ray.get(ray.remote(lambda: 7).remote()), *modes)
print(session.exists())
"""


@pytest.mark.ray
def test_ray_runs_where_the_temporary_directory_is_long_and_leaves_nothing(tmp_path):
    long = tmp_path / ("slurm_jobdir_" + "x" * 70)
    long.mkdir()
    env = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "RAY_TMPDIR")}
    env |= {"TMPDIR": str(long), "PYTHONPATH": str(Path(__file__).parents[2])}
    result = subprocess.run([sys.executable, "-c", START], env=env, capture_output=True, text=True, timeout=300)
    assert result.stdout.splitlines() == ["7 0o700 0o700", "False"], result.stderr
    assert not [path for path in long.rglob("*") if not path.name.startswith("torchinductor")]
