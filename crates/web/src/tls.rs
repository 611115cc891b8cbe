//! TLS for the HTTP listener: a certificate and its key from files, read again when they change.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::RwLock;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use sandgate_gateway::config::TlsFiles;
use tokio_rustls::TlsAcceptor;

/// How often the files are looked at. A new certificate may wait so long.
const LOOK: Duration = Duration::from_secs(5);

/// A certificate in use.
#[derive(Clone)]
pub(crate) struct Tls {
    acceptor: TlsAcceptor,
    current: Arc<Current>,
    files: TlsFiles,
}

/// The certificate that the next handshake gets.
struct Current(RwLock<Arc<CertifiedKey>>);

impl fmt::Debug for Current {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Current")
    }
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().clone())
    }
}

impl Tls {
    /// Reads the files.
    pub(crate) fn load(files: &TlsFiles) -> Result<Tls, TlsError> {
        let current = Arc::new(Current(RwLock::new(Arc::new(read(files)?))));
        let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(TlsError::Tls)?
            .with_no_client_auth()
            .with_cert_resolver(current.clone());
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Tls { acceptor: TlsAcceptor::from(Arc::new(config)), current, files: files.clone() })
    }

    pub(crate) fn acceptor(&self) -> &TlsAcceptor {
        &self.acceptor
    }

    /// Takes a new certificate whenever the files have changed and fit; for ever.
    pub(crate) async fn follow(self) {
        let mut seen = stamps(&self.files);
        loop {
            tokio::time::sleep(LOOK).await;
            let now = stamps(&self.files);
            if now == seen {
                continue;
            }
            match read(&self.files) {
                Ok(key) => {
                    *self.current.0.write() = Arc::new(key);
                    seen = now;
                    tracing::info!(certificate = %self.files.certificate.display(), "a new TLS certificate is in use");
                }
                // One of the two may not be written yet: asked again.
                Err(error) => {
                    tracing::warn!(%error, "the TLS certificate has changed and cannot be used; the old one stays")
                }
            }
        }
    }
}

fn stamps(files: &TlsFiles) -> [Option<SystemTime>; 2] {
    [&files.certificate, &files.key].map(|path| std::fs::metadata(path).and_then(|meta| meta.modified()).ok())
}

fn read(files: &TlsFiles) -> Result<CertifiedKey, TlsError> {
    let bad = |path: &PathBuf| {
        let path = path.clone();
        move |error: rustls::pki_types::pem::Error| TlsError::File { path, reason: error.to_string() }
    };
    let chain = CertificateDer::pem_file_iter(&files.certificate)
        .map_err(bad(&files.certificate))?
        .collect::<Result<Vec<_>, _>>()
        .map_err(bad(&files.certificate))?;
    if chain.is_empty() {
        let reason = "there is no certificate in it".to_owned();
        return Err(TlsError::File { path: files.certificate.clone(), reason });
    }
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(bad(&files.key))?;
    CertifiedKey::from_der(chain, key, &default_provider()).map_err(TlsError::Tls)
}

/// A certificate that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file.
    #[error("{path} cannot be used for TLS: {reason}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The two together.
    #[error("the TLS certificate cannot be used: {0}")]
    Tls(rustls::Error),
}
