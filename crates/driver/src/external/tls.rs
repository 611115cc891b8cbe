//! TCP with mutual TLS 1.3: the one way to an agent over a network.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use sandgate_guest::Link;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::link::TlsFiles;

/// Silence after which the kernel asks whether the other side is there, and the pause between two such questions.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// Questions without an answer after which the connection has ended.
const KEEPALIVE_MISSED: u32 = 3;

/// Connects and shakes hands. The files are read each time, so a renewed certificate needs no restart. The caller sets the deadline.
pub(super) async fn connect(host: &str, port: u16, files: &TlsFiles) -> io::Result<Link> {
    let files = files.clone();
    let config = tokio::task::spawn_blocking(move || config(&files)).await.map_err(io::Error::other)??;
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| io::Error::new(ErrorKind::InvalidInput, format!("{host} cannot be in a certificate")))?;
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    let keepalive =
        TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE).with_retries(KEEPALIVE_MISSED);
    SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    Ok(Link::Stream(Box::new(stream)))
}

fn config(files: &TlsFiles) -> io::Result<ClientConfig> {
    let unusable = |path: &std::path::Path, error: &dyn std::fmt::Display| {
        io::Error::new(ErrorKind::InvalidData, format!("{} cannot be used: {error}", path.display()))
    };
    let certificates = |path: &std::path::Path| {
        let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        match read {
            Ok(list) if list.is_empty() => Err(unusable(path, &"there is no certificate in it")),
            Ok(list) => Ok(list),
            Err(error) => Err(unusable(path, &error)),
        }
    };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&files.ca)? {
        roots.add(certificate).map_err(|error| unusable(&files.ca, &error))?;
    }
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| unusable(&files.key, &error))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_client_auth_cert(certificates(&files.cert)?, key)
        .map_err(|error| unusable(&files.cert, &error))
}
