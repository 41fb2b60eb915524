//! TLS from PEM files.

use std::path::Path;
use std::sync::Arc;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::error::ServeError;

/// What a server needs to speak TLS. Read before the walls go up: certificates lie where models do not.
#[derive(Clone)]
pub struct Tls(pub(crate) TlsAcceptor);

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls(..)")
    }
}

impl Tls {
    /// Reads a certificate chain and its key, PEM files both.
    ///
    /// # Errors
    /// [`ServeError::Tls`] with the file and the reason.
    pub fn read(chain: &Path, key: &Path) -> Result<Self, ServeError> {
        let bad = |path: &Path, why: &dyn std::fmt::Display| {
            ServeError::Tls(format!("{} cannot be used for TLS\n  {why}", path.display()))
        };
        let certificates = CertificateDer::pem_file_iter(chain)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| bad(chain, &error))?;
        if certificates.is_empty() {
            return Err(bad(chain, &"there is no certificate in it"));
        }
        let private = PrivateKeyDer::from_pem_file(key).map_err(|error| bad(key, &error))?;
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .and_then(|builder| {
                builder.with_no_client_auth().with_single_cert(certificates, private)
            })
            .map_err(|error| bad(chain, &error))?;
        Ok(Self(TlsAcceptor::from(Arc::new(config))))
    }
}
