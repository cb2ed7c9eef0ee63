import pickle

import pytest

from l2c_ray.errors import ConfigError, L2CError
from l2c_ray.printable import MOST_CHARACTERS, masked, printable

SECRETS = [
    "http://me:s3cret@host:5000/path",
    "http://s3cret@host/",
    "https://s3cret:x-oauth-basic@host/repository.git",
    "git+https://s3cret@host/repository.git",
    "http://:s3cret@host",
    "http://me:s3cret@[::1]:5000",
    "http://me:s3cret@[bad",
    "http://me:1 s3cret@host",
    "postgresql://me:s3cret@host/db",
    "postgresql+psycopg://me:two s3cret words@host/db",
    "postgresql://me:p@ss:s3cret@host/db",
    "postgresql://me:12/s3cret@host/db",
    "postgresql://me:50%25s3cret@host/db",
    "postgresql://me%3As3cret@host/db",
    "postgresql://my self:s3cret@host/db",
    "postgresql://host/db?user=me&password=s3cret",
    "sqlite://me:s3cret@",
    "sqlite:///file.db?api_key=s3cret",
    "s3://AKIAABCDEFGHIJKLMNOP:s3cret@bucket/prefix",
    "https://bucket.host/x?X-Amz-Credential=s3cret&X-Amz-Signature=s3cret&X-Amz-Security-Token=s3cret",
    "https://host/x?sv=1&sig=s3cret",
    "https://host/x?sasToken=s3cret",
    "https://host/x?PWD=s3cret",
    "https://host/page#access_token=s3cret",
    "http://a:s3cret@host and http://b:s3cret@other/x?token=s3cret",
    "no route to me:s3cret@host",
    "host=h user=me password=s3cret dbname=db",
    "host=h password = 'a s3cret b' dbname=db",
    "AWS_SECRET_ACCESS_KEY=s3cret",
    "http://me:s3cret\n@host",
    "HTTPS://s3cret@host",
    "https:///s3cret@host",
    "sqlite:///me:s3cret@host/x",
    "postgresql:///me:s3cret@host/db",
    "postgresql:////me:s3cret@host/db",
    "postgresql:/me:s3cret@host/db",
    "https:/me:s3cret@host",
    "//me:s3cret@host",
    "at //me:s3cret@host/x",
    "postgresql://m/e:s3cret@host/db",
    "postgresql://m/e%3As3cret@host/db",
    "postgresql://m/e:two s3cret words@host/db",
    "me:s3/cret/s3cret@host",
    "me:a/s3cret@host",
    "me:p@s3cret@host",
    "me:s3cret word@host",
    "me:two s3cret words@host",
    "{'password': 's3cret'}",
    "{'password': 'a\\' s3cret'}",
    '{"password":"s3cret","user":"me"}',
    '{\\"password\\": \\"s3cret\\"}',
    "AWS_SECRET_ACCESS_KEY: s3cret",
    "password: s3cret",
    "passphrase=s3cret",
    "private_key=s3cret",
    "pw=s3cret",
    "Authorization: Bearer s3cret",
    "Authorization: s3cret",
    *(f"https://host/x?{name}=s3cret" for name in ("jwt", "code", "pw", "access", "passphrase")),
    "it is 'https://host/x?token=a's3cret' now",
]


@pytest.mark.parametrize("text", SECRETS)
def test_no_secret_of_an_address_is_shown(text: str) -> None:
    for shown in (masked(text), printable(text), str(ConfigError(text, text, text))):
        assert "s3cret" not in shown
        assert "***" in shown


@pytest.mark.parametrize("text", SECRETS)
def test_masking_what_is_masked_changes_nothing(text: str) -> None:
    assert masked(masked(text)) == masked(text)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("http://me:s3cret@host:5000/path?page=2", "http://***@host:5000/path?page=2"),
        ("at http://a:s3cret@one and http://b:s3cret@two.", "at http://***@one and http://***@two."),
        ("http://host/?token=s3cret&page=2", "http://host/?token=***&page=2"),
        ("key AKIAABCDEFGHIJKLMNOP of http://host", "key *** of http://host"),
        ("it is 'https://me:s3cret@b/x?api_key=s3cret' now", "it is 'https://***@b/x?api_key=***' now"),
        ('it is "https://b/x?api_key=s3cret", now', 'it is "https://b/x?api_key=***", now'),
        ("(it is 'token=s3cret')", "(it is 'token=***')"),
        ("{'password': 's3cret', 'user': 'me'}", "{'password': '***', 'user': 'me'}"),
        ("postgresql:/me:s3cret@host/db", "postgresql:/***@host/db"),
        ("at //me:s3cret@host/x", "at //***@host/x"),
        ("sqlite:///me:s3cret@host/x", "sqlite://***@host/x"),
    ],
)
def test_all_but_the_secret_is_kept(text: str, kept: str) -> None:
    assert masked(text) == kept


@pytest.mark.parametrize(
    "text",
    [
        "http://127.0.0.1:5000",
        "http://[::1]:5000/api?page=2",
        "http://host/users/@me",
        "http://host does not know digits@champion",
        "postgresql://me@host/db",
        "sqlite:////home/me/a:b@c.db",
        "s3://bucket/prefix@2",
        "models:/digits-dit-ddim-20@champion",
        "write it as section.key=value",
        "router.lambda=1e-4",
        "12:30:59 me@host moved champion",
        "2026-01-05T12:30:59+00:00 me@host moved champion",
        "2026-01-05 12:30 by me@host",
        "127.0.0.1:5000 has no digits@champion",
        "error: digits@champion is missing",
        "s3://bucket/prefix: no digits@champion",
        "s3://bucket/prefix",
        "/data/a@b/c",
        "/data/a:b@c",
        "file:///data/a@b/c",
        "me@host, you@host",
        "git@host:owner/repository",
        "passes: 3, monkey: 4",
        "0123456789abcdef0123456789abcdef01234567",
    ],
)
def test_what_holds_no_secret_stays_as_it_is(text: str) -> None:
    assert masked(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("two\nlines\r\n", r"two\nlines\r\n"),
        ("\x1b[31mred\x07", r"\x1b[31mred\x07"),
        ("\x9b31m", r"\x9b31m"),
        ("a\u202eb\u2066c", r"a\u202eb\u2066c"),
        ("\u2028\x85\xa0", r"\u2028\x85\xa0"),
        ("\udc80", r"\udc80"),
        ("\U000e0001", r"\U000e0001"),
        ("Fréchet 数字 [red]", "Fréchet 数字 [red]"),
    ],
)
def test_characters_that_cannot_be_seen_are_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


UNITS = [
    "-:x",
    "-x:y ",
    "password='",
    'password=\\"',
    "secret",
    "?key='",
    "http://a/",
    "//",
    "a:/",
    "pwd= ",
    "a: ",
    "x:y@ ",
]


@pytest.mark.parametrize("unit", ["k", "\n", "[/", "a:", "-", "http://", "x@", "?key=", *UNITS])
def test_long_text_is_cut_in_the_middle_in_linear_time(unit: str) -> None:
    shown = printable(f"first {unit * 100_000} last")
    assert len(shown) <= MOST_CHARACTERS
    assert "..." in shown or "***" in shown
    assert shown.endswith("last")


def test_text_as_long_as_may_be_is_not_cut() -> None:
    assert printable("k" * MOST_CHARACTERS) == "k" * MOST_CHARACTERS


def test_error_is_one_bounded_line_whatever_it_repeats() -> None:
    error = L2CError("field\x1b[2J\nerror: other", "k" * 100_000, "take\u202eit")
    assert str(error).isprintable()
    assert len(str(error)) < 1000
    assert "\x1b" not in error.subject


def test_error_survives_the_way_from_another_process() -> None:
    error = ConfigError("a\nb", "k" * 1000, "http://me:s3cret@host")
    again = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert (type(again), str(again)) == (ConfigError, str(error))
    assert b"s3cret" not in pickle.dumps(error)
