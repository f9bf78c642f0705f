"""
The Prometheus sink over HTTPS.
"""

from __future__ import annotations

import json
import shutil
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from harken import Bus
from harken.catalog import PrCreated
from harken.errors import MetricsServerError, SettingsError
from harken.sinks.prometheus import PrometheusInstrumenter
from harken.sinks.prometheus._relatives import holder_of, this_process


@pytest.fixture
def certificates(
    require_server: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """
    A folder with an authority (ca), and two certificates of it: of a server and of a client.
    """
    openssl = require_server("openssl")
    folder = tmp_path_factory.getbasetemp() / "certificates"
    if folder.exists():
        return folder
    folder.mkdir()

    def run(*arguments: str) -> None:
        subprocess.run([openssl, *arguments], cwd=folder, check=True, capture_output=True)

    new = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    signs = ("-addext", "keyUsage=critical,keyCertSign")
    run(*new, "-subj", "/CN=authority", *signs, "-keyout", "ca.key", "-out", "ca.pem")
    for name in ("server", "client"):
        issued = ("-CA", "ca.pem", "-CAkey", "ca.key", "-keyout", f"{name}.key")
        usage = ("-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=CA:FALSE")
        run(*new, "-subj", f"/CN={name}", *issued, *usage, "-out", f"{name}.pem")
    run(*new, "-subj", "/CN=client", "-keyout", "stranger.key", "-out", "stranger.pem")
    run("ec", "-in", "server.key", "-aes128", "-passout", "pass:x", "-out", "locked.key")
    both = (folder / "server.pem").read_text() + (folder / "server.key").read_text()
    (folder / "both.pem").write_text(both)
    return folder


@pytest.fixture
def metrics(certificates: Path) -> Iterator[PrometheusInstrumenter]:
    """
    An instrumenter that serves any free port over HTTPS.
    """
    instrumenter = PrometheusInstrumenter(
        port=0, certfile=certificates / "server.pem", keyfile=certificates / "server.key"
    )
    yield instrumenter
    instrumenter.close()


def scrape(metrics: PrometheusInstrumenter, certificates: Path, client: str | None = None) -> str:
    """
    What a scrape gets that trusts the authority, and shows the certificate of *client*.
    """
    context = ssl.create_default_context(cafile=str(certificates / "ca.pem"))
    if client is not None:
        context.load_cert_chain(certificates / f"{client}.pem", certificates / f"{client}.key")
    url = f"https://127.0.0.1:{metrics.port}/metrics"
    with urllib.request.urlopen(url, context=context, timeout=30) as answer:
        return str(answer.read().decode())


def wait_for_scrape(url: str) -> list[dict[str, str]]:
    """
    What Prometheus says of its targets, once it has scraped them.
    """
    for _ in range(600):
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                targets: list[dict[str, str]] = json.load(answer)["data"]["activeTargets"]
        except OSError:
            targets = []
        if targets and all(one["health"] != "unknown" for one in targets):
            return targets
        time.sleep(0.1)
    pytest.fail("Prometheus did not scrape within a minute")


class TestTLS:
    """
    Metrics over HTTPS.
    """

    def test_scrape(self, metrics: PrometheusInstrumenter, certificates: Path) -> None:
        """
        Whoever trusts the authority gets the numbers over HTTPS.
        """
        bus = Bus()
        bus.attach(metrics, delivery="inline")
        bus.publish(PrCreated(url="u"))

        text = scrape(metrics, certificates)
        bus.close()
        assert 'infra_agent_prs_created_total{agent_slug=""} 1.0\n' in text

    def test_answer_has_an_end(self, metrics: PrometheusInstrumenter, certificates: Path) -> None:
        """
        The end of an answer is said, so that no client takes it for one that was cut off.
        """
        context = ssl.create_default_context(cafile=str(certificates / "ca.pem"))
        received = bytearray()
        with (
            socket.create_connection(("127.0.0.1", metrics.port or 0), timeout=30) as plain,
            context.wrap_socket(
                plain, server_hostname="127.0.0.1", suppress_ragged_eofs=False
            ) as client,
        ):
            client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            while piece := client.recv(65_536):
                received += piece

        assert b"infra_agent" in received

    def test_key_in_the_certificates_file(self, certificates: Path) -> None:
        """
        One file may hold both, the certificate and its key.
        """
        metrics = PrometheusInstrumenter(port=0, certfile=certificates / "both.pem")

        text = scrape(metrics, certificates)
        metrics.close()
        assert "infra_agent" in text

    def test_client_certificate(self, certificates: Path, caplog: pytest.LogCaptureFixture) -> None:
        """
        With authorities of clients, only a client of theirs is served; the others are said, once.
        """
        metrics = PrometheusInstrumenter(
            port=0,
            certfile=certificates / "server.pem",
            keyfile=certificates / "server.key",
            client_cafile=certificates / "ca.pem",
        )

        for client in (None, None, "stranger"):
            with pytest.raises(OSError):
                scrape(metrics, certificates, client=client)
        text = scrape(metrics, certificates, client="client")

        metrics.close()
        assert "infra_agent" in text
        nobody, stranger = (record.message for record in caplog.records)
        assert "(PEER_DID_NOT_RETURN_A_CERTIFICATE); further ones" in nobody
        assert "(CERTIFICATE_VERIFY_FAILED); further ones" in stranger

    def test_prometheus_scrapes(
        self, certificates: Path, tmp_path: Path, require_server: Callable[[str], str]
    ) -> None:
        """
        Prometheus itself scrapes over HTTPS with its certificate, and finds every answer whole.
        """
        prometheus = require_server("prometheus")
        metrics = PrometheusInstrumenter(
            port=0,
            certfile=certificates / "server.pem",
            keyfile=certificates / "server.key",
            client_cafile=certificates / "ca.pem",
        )
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        (tmp_path / "prometheus.yml").write_text(
            f"""
            scrape_configs:
              - job_name: agent
                scheme: https
                scrape_interval: 500ms
                scrape_timeout: 500ms
                tls_config:
                  ca_file: {certificates}/ca.pem
                  cert_file: {certificates}/client.pem
                  key_file: {certificates}/client.key
                static_configs:
                  - targets: ["127.0.0.1:{metrics.port}"]
            """
        )
        command = [
            *(prometheus, "--config.file=prometheus.yml", "--storage.tsdb.path=data"),
            f"--web.listen-address=127.0.0.1:{port}",
        ]

        with (
            (tmp_path / "log").open("wb") as log,
            subprocess.Popen(command, cwd=tmp_path, stderr=log) as server,
        ):
            try:
                targets = wait_for_scrape(f"http://127.0.0.1:{port}/api/v1/targets")
            finally:
                server.terminate()

        metrics.close()
        assert [("up", "")] == [(one["health"], one["lastError"]) for one in targets]

    def test_renewed_files(
        self,
        certificates: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """
        A renewed certificate is used without a restart, from wherever the process is by then; one
        without its key is said, once, and the one before is used until the key is there.
        """
        for name in ("pem", "key"):
            shutil.copy(certificates / f"server.{name}", tmp_path / f"own.{name}")
        monkeypatch.chdir(tmp_path)
        metrics = PrometheusInstrumenter(port=0, certfile="own.pem", keyfile="own.key")
        monkeypatch.chdir("/")
        address = ("127.0.0.1", metrics.port or 0)
        shown = [ssl.get_server_certificate(address)]

        for renewed in ("pem", "key"):
            shutil.copy(certificates / f"client.{renewed}", tmp_path / "new")
            (tmp_path / "new").replace(tmp_path / f"own.{renewed}")
            shown += [ssl.get_server_certificate(address) for _ in range(2)]

        metrics.close()
        old, new = ((certificates / f"{name}.pem").read_text() for name in ("server", "client"))
        assert [old, old, old, new, new] == shown
        (said,) = (record.message for record in caplog.records if record.levelname == "WARNING")
        assert "KEY_VALUES_MISMATCH" in said
        assert said.endswith("what was read before is used until then")

    def test_client_authority_that_is_replaced(self, certificates: Path, tmp_path: Path) -> None:
        """
        A client of an authority that was taken away is served no more; a file that is missing for
        a moment changes nothing.
        """
        authorities = tmp_path / "clients.pem"
        shutil.copy(certificates / "ca.pem", authorities)
        metrics = PrometheusInstrumenter(
            port=0, certfile=certificates / "both.pem", client_cafile=authorities
        )
        authorities.unlink()
        before = scrape(metrics, certificates, client="client")

        shutil.copy(certificates / "stranger.pem", authorities)
        with pytest.raises(OSError):
            scrape(metrics, certificates, client="client")

        metrics.close()
        assert "infra_agent" in before

    def test_plain_http_is_told(self, metrics: PrometheusInstrumenter) -> None:
        """
        Who asks over HTTP is told to use HTTPS, and sees no metrics.
        """
        with pytest.raises(urllib.error.HTTPError, match="400") as caught:
            urllib.request.urlopen(f"http://127.0.0.1:{metrics.port}/metrics", timeout=30).close()

        with caught.value as answer:
            assert b"HTTPS only" in answer.read()

    def test_tells_who_serves(self, metrics: PrometheusInstrumenter) -> None:
        """
        Another worker learns over plain HTTP who has the port, and shares it as it would without.
        """
        assert this_process() == holder_of("", metrics.port or 0)

    def test_stalled_clients(self, metrics: PrometheusInstrumenter, certificates: Path) -> None:
        """
        A hundred clients that stall before or in the handshake do not delay a scrape.
        """
        address = ("127.0.0.1", metrics.port or 0)
        with ExitStack() as stack:
            stalled = [
                stack.enter_context(socket.create_connection(address, timeout=30))
                for _ in range(100)
            ]
            for client in stalled[::2]:
                client.sendall(b"\x16\x03\x01\x02\x00\x01")

            text = scrape(metrics, certificates)

            for client in stalled:
                client.settimeout(0.01)
                with pytest.raises(TimeoutError):
                    client.recv(1)
        assert "infra_agent" in text

    def test_silent_client_is_let_go(
        self, metrics: PrometheusInstrumenter, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        A client that stops in the handshake is disconnected, and so is one that never begins it.
        """
        monkeypatch.setattr("harken.sinks.prometheus._export._Handler.timeout", 0.05)

        for sent in (b"", b"\x16\x03\x01\x02\x00\x01"):
            with socket.create_connection(("127.0.0.1", metrics.port or 0), timeout=30) as client:
                client.sendall(sent)
                received = client.recv(1000)

            assert b"" == received

    @pytest.mark.parametrize(
        ("files", "message"),
        [
            ({"certfile": "none.pem"}, "'none.pem': No such file"),
            ({"certfile": "ca.key"}, "'ca.key': "),
            ({"certfile": "server.pem"}, "'server.pem': "),
            ({"certfile": "server.pem", "keyfile": "client.key"}, "key 'client.key': "),
            ({"certfile": "server.pem", "keyfile": "locked.key"}, "key 'locked.key': "),
            (
                {"certfile": "both.pem", "client_cafile": "ca.key"},
                "client authorities 'ca.key': ",
            ),
        ],
    )
    def test_files_that_do_not_fit(
        self,
        certificates: Path,
        monkeypatch: pytest.MonkeyPatch,
        files: dict[str, str],
        message: str,
    ) -> None:
        """
        A file that is missing, no certificate, another key or locked is one clear error at once.
        """
        monkeypatch.chdir(certificates)

        with pytest.raises(MetricsServerError, match=f"{message}.*belong together"):
            PrometheusInstrumenter(port=0, **files)  # type: ignore[arg-type]

    @pytest.mark.parametrize("name", ["keyfile", "client_cafile"])
    def test_half_of_it(self, name: str) -> None:
        """
        A key or authorities without a certificate would be served in the clear, and are refused.
        """
        with pytest.raises(SettingsError, match="needs a certfile"):
            PrometheusInstrumenter(port=0, **{name: "x.pem"})  # type: ignore[arg-type]
