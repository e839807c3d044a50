//! Certificates of authorities, in PEM, as operators keep them: what beside the public authorities vouches for servers.

use rustls::{
    RootCertStore,
    pki_types::{
        CertificateDer,
        pem::{self, PemObject as _},
    },
};

/// Why a text can't be used.
#[derive(Debug, thiserror::Error)]
pub enum AuthoritiesError {
    /// There is none in it.
    #[error(
        "there is no certificate in it; in PEM, one stands between `-----BEGIN CERTIFICATE-----` and `-----END CERTIFICATE-----`"
    )]
    None,
    /// It is broken PEM.
    #[error("it can't be read as PEM: {0}")]
    Pem(pem::Error),
    /// One of the certificates is none.
    #[error("certificate {number} in it can't be read: {reason}")]
    Certificate {
        /// Which, from 1.
        number: usize,
        /// What is wrong with it.
        reason: rustls::Error,
    },
}

/// Each certificate of a PEM text. What else stands in it does not count.
///
/// # Errors
/// [`AuthoritiesError`]: also for a text of which only a part can be used, and for one without any certificate.
pub fn certificate_authorities(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, AuthoritiesError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    let found = found.map_err(AuthoritiesError::Pem)?;
    if found.is_empty() {
        return Err(AuthoritiesError::None);
    }
    for (place, certificate) in found.iter().enumerate() {
        let unfit = |reason| AuthoritiesError::Certificate {
            number: place + 1,
            reason,
        };
        RootCertStore::empty().add(certificate.clone()).map_err(unfit)?;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::{Engine as _, engine::general_purpose::STANDARD};

    fn pem(label: &str, der: &[u8]) -> String {
        let text = STANDARD.encode(der);
        format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n")
    }

    fn own() -> String {
        let made = rcgen::generate_simple_self_signed(["ca.example".to_owned()]).unwrap();
        pem("CERTIFICATE", made.cert.der())
    }

    #[test]
    fn each_certificate_of_a_file_counts_and_what_else_is_in_it_does_not() {
        let text = format!("# our own\n{}\nbetween\n{}", own(), own());
        assert_eq!(certificate_authorities(text.as_bytes()).unwrap().len(), 2);
        let with_key = format!("{}{}", pem("PRIVATE KEY", b"a key"), own());
        assert_eq!(certificate_authorities(with_key.as_bytes()).unwrap().len(), 1);
    }

    #[test]
    fn a_file_of_which_not_all_can_be_used_is_refused() {
        let said = |text: &str| certificate_authorities(text.as_bytes()).unwrap_err().to_string();
        for nothing in ["", "not PEM at all", "\u{0}\u{1}"] {
            assert!(said(nothing).contains("no certificate in it"), "{nothing}");
        }
        let broken = own().replace("-----END CERTIFICATE-----", "");
        assert!(said(&broken).contains("can't be read"), "{}", said(&broken));
        let second = format!(
            "{}-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            own()
        );
        assert!(
            said(&second).contains("certificate 2 in it can't be read"),
            "{}",
            said(&second)
        );
    }
}
