from pathlib import Path

import pytest

from shared.settings import Settings, load

SECRETS = {
    "database_url": "postgresql://afterglow:s3cret@127.0.0.1/afterglow",
    "operator_keys": "operator-key-of-a-test,the-former-key-of-it",
    "link_keys": "link-key-of-some-test",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, value in SECRETS.items():
        monkeypatch.delenv(name.upper(), raising=False)
        (tmp_path / name).write_text(value + "\n")
    monkeypatch.setenv("SECRETS_DIR", str(tmp_path))
    return tmp_path


def test_a_setting_may_stand_in_a_file_of_the_secrets_folder(folder: Path) -> None:
    settings = load(Settings)
    assert settings.database_url.get_secret_value() == SECRETS["database_url"]
    assert [k.get_secret_value() for k in settings.operator_keys] == [
        "operator-key-of-a-test",
        "the-former-key-of-it",
    ]


def test_the_environment_wins_over_the_secrets_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LINK_KEYS", "link-key-of-the-environment")
    assert [k.get_secret_value() for k in load(Settings).link_keys] == [
        "link-key-of-the-environment"
    ]


@pytest.mark.parametrize("weak", ["changeme", "short", ""])
def test_a_weak_secret_in_a_file_stops_the_start_without_being_repeated(
    folder: Path, weak: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "operator_keys").write_text(weak)
    with pytest.raises(SystemExit, match=r"^78$"):
        load(Settings)
    said = capsys.readouterr().err
    assert said.startswith("OPERATOR_KEYS")
    assert not weak or weak not in said
    assert "Value error" not in said


def test_a_secrets_folder_that_is_not_there_stops_the_start(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SECRETS_DIR", str(folder / "elsewhere"))
    with pytest.raises(SystemExit, match=r"^78$"):
        load(Settings)
    assert capsys.readouterr().err == "SECRETS_DIR is not a folder\n"
