"""Settings from the environment: what counts as set, and the password that comes from a file."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from verifier_service.settings import Settings


def test_the_command_line_wins_over_the_environment() -> None:
    assert Settings.load({"VERIFIER_PORT": "9000"}).port == 9000
    assert Settings.load({"VERIFIER_PORT": "9000"}, port=9001, workers=None).port == 9001


def test_an_empty_variable_is_not_set() -> None:
    assert Settings.load({"VERIFIER_API_KEYS_FILE": "", "VERIFIER_PORT": ""}) == Settings()


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://code@redis:6379/0", "redis://code:p%40ss%2Fword@redis:6379/0"),
        ("rediss://redis.example.org", "rediss://:p%40ss%2Fword@redis.example.org"),
    ],
)
def test_the_password_comes_from_its_file(tmp_path: Path, url: str, address: str) -> None:
    file = tmp_path / "password"
    file.write_text("p@ss/word\n")
    settings = Settings.load({"VERIFIER_REDIS_URL": url, "VERIFIER_REDIS_PASSWORD_FILE": str(file)})
    assert settings.redis_address == address
    assert "p@ss" not in str(settings)


def test_without_a_password_file_the_address_is_the_url() -> None:
    assert Settings(redis_url="unix:///run/redis.sock").redis_address == "unix:///run/redis.sock"
    assert Settings().redis_address is None


def test_a_password_file_that_is_missing_or_has_no_url_is_refused(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("secret")
    with pytest.raises(ValidationError, match="redis_password_file"):
        Settings(redis_url="redis://redis", redis_password_file=tmp_path / "nowhere")
    with pytest.raises(ValidationError, match="needs redis_url"):
        Settings(redis_password_file=tmp_path / "password")
