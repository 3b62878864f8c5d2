"""The files of a Ray that is started here are closed to other users."""

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
