"""Credentials are refused where they would be written; in the ways that work they stay out of every file."""

import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg2
import pytest
from hypothesis import given
from hypothesis import strategies as st

import rnnbench
from rnnbench.config import ConfigError, mask
from rnnbench.config.secrets import check_tree, check_words
from rnnbench.reader import records
from rnnbench.record.__main__ import sync
from rnnbench.search.storage import check_storage, open_storage
from tests.forked import Forked
from tests.mlflow_store import Server, make_sweep
from tests.proxy import Proxy
from tests.test_app import QUICK
from tests.test_refusals import assert_refused, command

PACKAGE = Path(__file__).parents[1] / "rnnbench"
SECRET = "Sesam.Oeffne-Dich"
HTTP_WAYS = [
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "~/.mlflow/credentials",
]
SQL_WAYS = ["~/.pgpass", "PGPASSWORD"]


# What holds a credential, and what does not


@pytest.mark.parametrize(
    "text",
    [
        "http://me:{}@host",
        "http://me:{}@host:5000/x",
        "http://me:a/b:{}@@c?d@host",  # no valid URL, but a password nevertheless
        "https://{}@host/x",
        "postgresql://me:{}@/name?host=/run",
        "postgresql+psycopg2://me:{}@host/name",
        "postgresql://host/name?sslmode=require&password={}",
        "https://host/x?a=b&access_token={}",
        "https://host/x?X-Amz-Signature={}&a=b",
        "https://host/x?sv=1&sig={}",
        "ray://me:{}@host:10001",
        "http://localhost:5000,http://me:{}@host",
        "export PGPASSWORD={}",
        "hydra.job.env_set.MLFLOW_TRACKING_TOKEN={}",
        "hydra.job.env_set={{MLFLOW_TRACKING_TOKEN:{},A:b}}",
    ],
)
def test_a_credential_is_masked_and_refused(text: str) -> None:
    given = text.format(SECRET)
    assert SECRET not in mask(given) and "***" in mask(given)
    assert mask(mask(given)) == mask(given)
    for refuse in (
        lambda: check_words([f"+some.key={given}"]),
        lambda: check_tree({"some": {"key": [1, {"more": given}]}}),
        lambda: check_tree({"hydra": {"overrides": {"task": [f"some.key={given}"]}}}),
    ):
        with pytest.raises(ConfigError, match=r"some\.key.*\*\*\*.*would be written to disk") as refusal:
            refuse()
        assert SECRET not in str(refusal.value)


@pytest.mark.parametrize(
    "text",
    [
        "http://localhost:5000",
        "http://[::1]:5000",
        "http://host:5000/a@b",
        "sqlite:////a/b@c:d@e.db",
        "postgresql://me@host:5432/name",
        "optim.lr=0.1 model=lstm,gru",
        "hydra.job.env_copy=[PGPASSWORD]",
        "hydra.job.env_set.PGPASSWORD=${oc.env:PGPASSWORD}",
        "data.path=a:b@c",
    ],
)
def test_what_holds_no_credential_is_left_alone(text: str) -> None:
    assert mask(text) == text
    check_words([text])


# The kinds of places: a secret of any signs, as it is written there.
TEXTS = {
    "url": lambda secret: f"postgresql://me:{secret}@host/db",
    "url without a user": lambda secret: f"postgresql://:{secret}@host/db",
    "url, quoted": lambda secret: f"http://m%40e:{quote(secret, safe='')}@host/x",
    "token, empty password": lambda secret: f"https://{quote(secret, safe='')}:@host/x",
    "odbc": lambda secret: f"mssql+pyodbc:///?odbc_connect=Driver={{x}};UID=me;PWD={{{secret}}};",
    "odbc, quoted": lambda secret: f"mssql:///?odbc_connect={quote(f'UID=me;PWD={secret};', safe='')}",
    "pass": lambda secret: f"https://host/x?pass={secret}",
    "auth": lambda secret: f"https://host/x?a=b&auth={secret}",
    "key": lambda secret: f"https://host/x?key={secret}",
    "variable": lambda secret: f"export DB_PASS={secret}",
    "quoted words": lambda secret: f'PASSWORD="two {secret}"',
    "dsn": lambda secret: f"host=h user=me password={secret}",
    "json": lambda secret: json.dumps({"a": {"password": secret}}),
    "json, no spaces": lambda secret: json.dumps({"api_key": secret}, separators=(",", ":")),
    "header": lambda secret: f"Authorization: Basic {secret}",
    "bearer": lambda secret: f"Bearer {secret}",
    "camel": lambda secret: f"accessToken={secret}",
}  # fmt: skip
SIGNS = "".join(map(chr, range(33, 127)))
SECRETS = st.text(st.sampled_from(SIGNS), min_size=8, max_size=30).filter(
    lambda text: len(set(text)) > 4 and text.isascii() and text[0].isalnum()
)
DIGITS_FIRST = st.tuples(st.integers(0, 99999), SECRETS).map(lambda pair: f"{pair[0]}{pair[1]}")


@pytest.mark.parametrize("place", TEXTS)
@given(secret=st.one_of(SECRETS, DIGITS_FIRST))
def test_a_secret_of_any_signs_is_masked_and_refused(place: str, secret: str) -> None:
    if place == "odbc":
        secret = secret.replace("}", "")
    if place == "quoted words":
        secret = secret.replace('"', "")
    text = TEXTS[place](secret)
    written = {secret, quote(secret, safe=""), json.dumps(secret)[1:-1]}
    shown = mask(text)
    assert "***" in shown and not any(word in shown for word in written)
    assert mask(shown) == shown
    for refuse in (
        lambda: check_words([f"+some.place={text}"]),
        lambda: check_tree({"some": {"place": [{"more": text}]}}),
    ):
        with pytest.raises(ConfigError, match="would be written to disk") as refusal:
            refuse()
        assert not any(word in str(refusal.value) for word in written)


@pytest.mark.parametrize(
    "key",
    ["+data.options.password", "api_key", "data.options.api_key", "data.options.clientSecret", "some.auth",
     "hydra.job.env_set.DB_PASS", "hydra.job.env_set.PGPASSWORD", "hydra.job.env_set.AWS_SECRET_ACCESS_KEY"],
)  # fmt: skip
@pytest.mark.parametrize("secret", [SECRET, "two words", "12345", "$ecret,a", "[x", "true1"])
def test_whatever_a_secret_key_holds_is_refused(key: str, secret: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        check_words([f"{key}={secret}"])
    assert secret not in str(refusal.value)
    tree: object = int(secret) if secret.isdigit() else secret
    for part in reversed(key.lstrip("+").split(".")):
        tree = {part: tree}
    with pytest.raises(ConfigError) as refusal:
        check_tree(tree)
    assert secret not in str(refusal.value)


@pytest.mark.parametrize(
    "token",
    ["ghp_" + "aB3" * 12, "github_pat_" + "aB3" * 12, "AKIA" + "ABCD" * 4, "sk-proj-" + "aB3" * 8,
     "sk_live_" + "aB3" * 8, "hf_" + "aB3" * 10, "xoxb-" + "12-ab" * 4,
     "eyJhbGciOiJIUzI1.eyJzdWIiOiIxMjM0.c2ln"],
)  # fmt: skip
def test_a_token_is_known_by_its_form(token: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        check_words([f"data.options.words=[a,{token}]"])
    assert token not in str(refusal.value) and token not in mask(f"see {token}.")


ORDINARY = [
    "http://[::1]:5000/a@b", "postgresql://user:@host/db", "scheme://host:5432/db@x", "optim.lr=1e-3",
    "data.options.key=3", "data.options.max_tokens=100", "data.options.pad_token=<pad>",
    "data.options.passes=3",
    "hydra.job.env_set.TOKENIZERS_PARALLELISM=false", "hydra.job.env_set.PGPASSFILE=/home/me/.pgpass",
    "hydra.job.env_set.PWD=/x", "data.options.author=me", "data.options.compass=north",
    "data.options.start=12:30:05",
    "data.path=/home/me@work/a:b@c.npz", "git@github.com:foo/bar.git", "data.options.password=null",
    "data.options.two_pass=true", "hydra.launcher.setup=['module load x','export PGPASSWORD=$OTHER']",
    "tracking.uri=http://localhost:5000,http://b:5000/x@y", "data.source=https://host/x?a=b&c=d",
    "hydra.sweep.dir=multirun/50%/x", "model.name=a=b", "data.path=sk-learn-digits-of-many-people.npz",
    "hydra.launcher.additional_parameters={qos: low, mail_user: me@x.org}", "data.options.token=''",
    "seed=range(5)", "'model=glob(l*)'", "objective=val/loss", "data.path=100%25.npz",
]  # fmt: skip


@pytest.mark.parametrize("text", ORDINARY)
def test_an_ordinary_command_is_not_refused(text: str) -> None:
    check_words([text])
    assert mask(text) == text


# Refusals, as they are typed

URL = f"http://me:{SECRET}@host"
SQL = f"postgresql://me:{SECRET}@host/name"
REFUSED = {
    "run": ([f"tracking.uri={URL}"], ["tracking.uri=http://me:***@host", *HTTP_WAYS]),
    "swept": (["-m", f"tracking.uri=null,{URL}"], ["tracking.uri", *HTTP_WAYS]),
    "unreadable": ([f"tracking.uri=http://me:{SECRET}('=@host"], ["tracking.uri", "***"]),
    "tracking in SQL": ([f"tracking.uri={SQL}"], ["tracking.uri=postgresql://me:***@host/name", *SQL_WAYS]),
    "storage": (
        ["-m", "hydra/sweeper=optuna", "search=rate", f"hydra.sweeper.storage={SQL}"],
        ["hydra.sweeper.storage=postgresql://me:***@host/name", *SQL_WAYS],
    ),
    "data": (["data=mnist", f"data.source=https://{SECRET}@host"], ["data.source", "data.root"]),
    "query": (["data=mnist", f"data.source=https://host/x?sig={SECRET}"], ["data.source=https://host/x?sig=***"]),
    "launcher": (
        ["-m", f"+hydra.launcher.address=ray://me:{SECRET}@host:1"], ["hydra.launcher.address", "environment"]
    ),
    "environment": (["-m", f"hydra.job.env_set.PGPASSWORD={SECRET}"], ["hydra.job.env_set.PGPASSWORD=***"]),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_credential_on_the_command_line(case: str) -> None:
    words, said = REFUSED[case]
    with pytest.raises(ConfigError) as refusal:
        check_words(words)
    assert all(word in str(refusal.value) for word in said), refusal.value
    assert SECRET not in str(refusal.value)


@pytest.mark.parametrize("case", ["tracking in SQL", "launcher"])
def test_a_credential_is_refused_before_anything_is_made(case: str, tmp_path: Path) -> None:
    words, said = REFUSED[case]
    done = command(words, tmp_path)
    assert SECRET not in done.stdout + done.stderr
    assert_refused(done, said, tmp_path)


def test_a_traceback_has_no_credential(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even of what Hydra cannot read, and would quote."""
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    done = command(REFUSED["unreadable"][0], tmp_path)
    assert done.returncode == 1 and "Traceback" in done.stderr
    assert SECRET not in done.stdout + done.stderr


FILES = {
    "hydra node": ("hydra: {{launcher: {{address: '{}'}}}}", f"ray://me:{SECRET}@host:1", ["-m"]),
    "interpolated, swept": ("tracking: {{uri: '${{oc.env:STORE}}'}}", URL, ["-m", "seed=0,1"]),
    "storage, interpolated": (
        "hydra: {{sweeper: {{storage: '${{oc.env:STORE}}'}}}}", SQL, ["-m", "search=rate"]
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FILES)
def test_a_credential_in_a_file_or_behind_an_interpolation(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, url, words = FILES[case]
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    more = text.format(url)
    (tmp_path / "conf" / "experiment" / "mine.yaml").write_text(f"# @package _global_\n{more}\n")
    monkeypatch.setenv("STORE", url)
    work = tmp_path / "work"
    work.mkdir()
    done = command([f"--config-dir={tmp_path}/conf", *words, "experiment=mine"], work)
    assert SECRET not in done.stdout + done.stderr
    assert_refused(done, ["***", "would be written to disk"], work)


def test_a_credential_for_a_table(tmp_path: Path) -> None:
    for word in (f"source={URL}", f"source={SQL}"):
        done = subprocess.run(
            [sys.executable, "-m", "rnnbench.paper", "table=digits", "--no-run", word],
            cwd=tmp_path, capture_output=True, text=True,
        )  # fmt: skip
        assert SECRET not in done.stdout + done.stderr
        assert_refused(done, [word.partition("=")[0], "***"], tmp_path)


def test_reading_with_a_credential_tells_it_to_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A notebook may read from such a URL, since nothing is written; its errors are shown to others."""
    closed = f"postgresql://me:{SECRET}@127.0.0.1:9/name"
    with pytest.raises(ConfigError) as refusal:
        records(closed)
    assert SECRET not in str(refusal.value)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", closed)
    with pytest.raises(ConfigError) as refusal:
        rnnbench.load("f" * 32)
    assert SECRET not in str(refusal.value)
    with pytest.raises(ConfigError) as refusal:
        check_storage(SQL)
    assert SECRET not in str(refusal.value)


# The ways that work, and what they leave


@pytest.fixture(scope="session")
def guarded(postgresql: str) -> str:
    """A database of the PostgreSQL server that asks its user for the password; its URL."""
    with psycopg2.connect(postgresql) as connection, connection.cursor() as sql:
        sql.execute("SHOW hba_file")
        (file,) = sql.fetchone() or ("",)
    rules = Path(file).read_text()
    Path(file).write_text(f"local all team scram-sha-256\n{rules}")
    connection = psycopg2.connect(postgresql)
    connection.autocommit = True
    with connection.cursor() as sql:
        sql.execute("SELECT pg_reload_conf()")
        sql.execute(f"CREATE ROLE team LOGIN PASSWORD '{SECRET}'")
        sql.execute("CREATE DATABASE team OWNER team")
    connection.close()
    return f"postgresql://team@/team?host={postgresql.partition('host=')[2]}"


@pytest.fixture
def locked(mlflow_server: Server) -> Iterator[Proxy]:
    """MLflow's server behind a door that opens to me with the password, and to the token."""
    mlflow_server.start()
    with Proxy(mlflow_server.port) as proxy:
        basic = base64.b64encode(f"me:{SECRET}".encode()).decode()
        proxy.wanted = {f"Basic {basic}", f"Bearer {SECRET}"}
        yield proxy


def assert_nowhere(folder: Path, *texts: str) -> None:
    """The secret is in no file, nor in what was said, plain or encoded."""
    hidden = [SECRET, base64.b64encode(f"me:{SECRET}".encode()).decode()]
    for text in texts:
        assert not any(secret in text for secret in hidden)
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert files
    for file in files:
        content = file.read_bytes()
        assert not any(secret.encode() in content for secret in hidden), file


def app(folder: Path, module: str, *words: str, **environment: str) -> str:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"HYDRA_FULL_ERROR": "1", **environment}.items():
            patch.setenv(name, value)
        process = Forked(module, words, folder)
    said = "".join(process.communicate(timeout=300))
    assert process.returncode == 0, said
    return said


def search(storage: str, uri: str) -> list[str]:
    words = [
        "-m",
        "hydra/sweeper=optuna",
        "search=rate",
        "hydra.sweeper.n_trials=2",
        "hydra.sweeper.confirm=1",
    ]
    return [
        *words,
        "hydra.sweeper.study_name=s",
        f"hydra.sweeper.storage='{storage}'",
        f"tracking.uri={uri}",
        *QUICK,
    ]


TABLE = """# python -m rnnbench.paper table=tiny
# Expected: a table
title: One cell
sweep: [model.hidden_size=4, fit.epochs=1, data.train_size=64, "seed=0,1"]
metrics: [test/accuracy]
"""


def test_credentials_of_the_environment_are_used_and_written_nowhere(
    locked: Proxy, guarded: str, tmp_path: Path, mlflow_server: Server
) -> None:
    said = app(
        tmp_path, "rnnbench", *search(guarded, locked.uri),
        MLFLOW_TRACKING_USERNAME="me", MLFLOW_TRACKING_PASSWORD=SECRET, PGPASSWORD=SECRET,
    )  # fmt: skip
    assert f"compare: {locked.uri}" in said  # all is delivered
    assert_nowhere(tmp_path, said)
    assert_nowhere(mlflow_server.folder)
    with psycopg2.connect(guarded, password=SECRET) as connection, connection.cursor() as sql:
        sql.execute("SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'")
        for (table,) in sql.fetchall():
            sql.execute(f'SELECT * FROM "{table}"')
            assert SECRET not in repr(sql.fetchall())


@pytest.mark.slow
def test_a_table_is_made_with_a_token_that_is_written_nowhere(
    locked: Proxy, tmp_path: Path, mlflow_server: Server
) -> None:
    (tmp_path / "table").mkdir()
    (tmp_path / "table" / "tiny.yaml").write_text(TABLE)
    words = ["--config-dir=.", "table=tiny", f"tracking.uri={locked.uri}"]
    said = app(tmp_path, "rnnbench.paper", *words, MLFLOW_TRACKING_TOKEN=SECRET)
    assert (tmp_path / "multirun" / "paper" / "tiny" / "provenance.json").exists()
    assert_nowhere(tmp_path, said)
    assert_nowhere(mlflow_server.folder)


@pytest.mark.slow
def test_credentials_of_files_are_used_and_written_nowhere(
    locked: Proxy, guarded: str, tmp_path: Path
) -> None:
    home, work = tmp_path / "home", tmp_path / "work"
    (home / ".mlflow").mkdir(parents=True)
    work.mkdir()
    (home / ".mlflow" / "credentials").write_text(
        f"[mlflow]\nmlflow_tracking_username = me\nmlflow_tracking_password = {SECRET}\n"
    )
    (home / ".pgpass").write_text(f"*:*:*:team:{SECRET}\n")
    (home / ".pgpass").chmod(0o600)
    said = app(work, "rnnbench", *search(guarded, locked.uri), HOME=str(home))
    assert f"compare: {locked.uri}" in said
    assert_nowhere(work, said)


def test_a_login_that_is_refused_is_told_without_the_password(
    locked: Proxy, guarded: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    wrong = "Sesam.Schliess-Dich"
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", wrong)
    assert sync(make_sweep(tmp_path / "sweep", locked.uri, jobs=1)) == 1
    said = capsys.readouterr().out
    assert "does not take records now" in said and "401" in said and wrong not in said
    monkeypatch.setenv("PGPASSWORD", wrong)
    with pytest.raises(ConfigError, match="authentication failed") as refusal:
        open_storage(guarded)
    assert wrong not in str(refusal.value)
    assert sync(make_sweep(tmp_path / "sql", guarded, jobs=1)) == 1
    said = capsys.readouterr().out
    assert "authentication failed" in said and wrong not in said
