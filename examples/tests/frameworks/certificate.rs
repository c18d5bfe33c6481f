//! A certificate of the test's own, made once.

use rcgen::{CertifiedKey, generate_simple_self_signed};
use std::sync::{Arc, LazyLock};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};

pub(crate) const NAME: &str = "server.test";

/// The certificate and its key.
static MADE: LazyLock<(CertificateDer<'static>, Vec<u8>)> = LazyLock::new(|| {
    let made = generate_simple_self_signed([NAME.to_owned()]);
    let CertifiedKey { cert, signing_key } = made.expect("a certificate can be made");
    (cert.into(), signing_key.serialize_der())
});

pub(crate) fn server() -> Result<Arc<ServerConfig>, tokio_rustls::rustls::Error> {
    let (certificate, key) = MADE.clone();
    let key = PrivatePkcs8KeyDer::from(key).into();
    Ok(Arc::new(ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate], key)?))
}

pub(crate) fn client() -> Result<Arc<ClientConfig>, tokio_rustls::rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add(MADE.0.clone())?;
    Ok(Arc::new(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth()))
}
