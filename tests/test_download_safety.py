"""What a server that data comes from, or an archive, may not do: lead or write elsewhere, fill a disk."""

import hashlib
import io
import shutil
import ssl
import subprocess
import tarfile
import threading
import urllib.request
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from rnnbench.config import ConfigError
from rnnbench.tasks import download, load
from rnnbench.tasks.images import DATASETS
from rnnbench.tasks.sequences import Images
from tests.published_files import Server, leftovers, pack


def test_over_plain_http_a_line_says_what_is_relied_on(
    server: Server, tmp_path: Path, small: None, capsys: pytest.CaptureFixture[str]
) -> None:
    digests = pack("kmnist", server.folder)
    load(Images("kmnist", root=str(tmp_path / "new"), source=server.url, sha256=digests))
    said = capsys.readouterr().err
    for archive, digest in digests.items():
        assert f"downloading {server.url}{archive} (not https: taken only if its sha256 is {digest})" in said


@pytest.fixture
def certified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server with https and a certificate that is trusted here, which leads to whatever stands in `to`."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
    ]
    command += ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)

    class Leads(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(302)
            self.send_header("Location", (tmp_path / "to").read_text() + self.path[1:])
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Leads) as secure:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        secure.socket = context.wrap_socket(secure.socket, server_side=True)
        threading.Thread(target=secure.serve_forever, daemon=True).start()
        handler = urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=certificate))
        opener = urllib.request.build_opener(download.SameSecurity, handler)
        monkeypatch.setattr(download, "OPENER", opener)
        yield f"https://localhost:{secure.server_address[1]}/"
        secure.shutdown()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_nobody_is_led_from_https_to_anything_else(
    certified: str, server: Server, tmp_path: Path, small: None
) -> None:
    digests = pack("kmnist", server.folder)
    data = Images("kmnist", root=str(tmp_path / "new"), source=certified, sha256=digests)
    for to, kind in ((server.url, "http"), (f"file://{server.folder}/", "file"), ("ftp://localhost/", "ftp")):
        (tmp_path / "to").write_text(to)
        with pytest.raises(ConfigError, match=f"leads from https to {kind}|is not allowed"):
            load(data)
        assert server.asked == [] and leftovers(tmp_path / "new") == []


@pytest.mark.parametrize("name", ["emnist", "cifar10"])
def test_an_archive_writes_nowhere_else(name: str, server: Server, tmp_path: Path, small: None) -> None:
    """Names that lead out of the folder are not even looked at."""
    (archive,) = pack(name, server.folder)
    file = server.folder / archive
    outside = ["../evil", "../../../evil", f"{tmp_path}/evil", "gzip/../../evil"]
    if name == "emnist":
        with zipfile.ZipFile(file, "a") as packed:
            for path in outside:
                packed.writestr(path, b"evil")
    else:
        with tarfile.open(file) as tape:
            kept = [(m, tape.extractfile(m).read()) for m in tape.getmembers()]
        with tarfile.open(file, "w:gz") as tape:
            for path in outside:
                kept.append((tarfile.TarInfo(path), b"evil"))
            for member, content in kept:
                member.size = len(content)
                tape.addfile(member, io.BytesIO(content))
    digests = {archive: hashlib.sha256(file.read_bytes()).hexdigest()}
    before = set(tmp_path.rglob("*"))
    load(Images(name, root=str(tmp_path / "new"), source=server.url, sha256=digests))
    assert leftovers(tmp_path / "new") == sorted([*DATASETS[name].files, "rnnbench.sha256"])
    made = set(tmp_path.rglob("*")) - before
    assert all((tmp_path / "new") in (path, *path.parents) for path in made)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_a_link_in_an_archive_leads_nowhere(kind: bytes, server: Server, tmp_path: Path, small: None) -> None:
    secret = tmp_path / "secret"
    secret.write_text("mine")
    pack("cifar10", server.folder)
    file = server.folder / "cifar-10-python.tar.gz"
    with tarfile.open(file, "w:gz") as tape:
        for name in DATASETS["cifar10"].files:
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.type, member.linkname = kind, str(secret)
            tape.addfile(member)
    digests = {file.name: hashlib.sha256(file.read_bytes()).hexdigest()}
    with pytest.raises(ConfigError, match="cannot be unpacked"):
        load(Images("cifar10", root=str(tmp_path / "new"), source=server.url, sha256=digests))
    assert leftovers(tmp_path / "new") == []


@pytest.mark.parametrize("name", ["kmnist", "emnist", "cifar10"])
def test_what_unpacks_to_more_than_it_should_fills_no_disk(
    name: str, server: Server, tmp_path: Path, small: None
) -> None:
    sizes = {file: size - 1 for file, size in DATASETS[name].files.items()}
    object.__setattr__(DATASETS[name], "files", sizes)
    digests = pack(name, server.folder)
    with pytest.raises(ConfigError, match="holds more than"):
        load(Images(name, root=str(tmp_path / "new"), source=server.url, sha256=digests))
    assert leftovers(tmp_path / "new") == []


def test_what_never_ends_fills_no_disk(
    server: Server, tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = pack("kmnist", server.folder)
    monkeypatch.setattr(download, "LARGEST", 1000)
    with pytest.raises(ConfigError, match="holds more than 1,000 bytes in train-images"):
        load(Images("kmnist", root=str(tmp_path / "new"), source=server.url, sha256=digests))
    assert leftovers(tmp_path / "new") == []
