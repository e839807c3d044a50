//! The frame around keys: a label, and bytes in base64.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

const WIDTH: usize = 64;

/// The bytes under one of these labels; the first there is.
pub(super) fn read(text: &str, labels: &[&str]) -> Option<Zeroizing<Vec<u8>>> {
    labels.iter().find_map(|label| {
        let (_, rest) = text.split_once(&format!("-----BEGIN {label}-----"))?;
        let (body, _) = rest.split_once(&format!("-----END {label}-----"))?;
        let body: Zeroizing<String> = Zeroizing::new(body.split_ascii_whitespace().collect());
        STANDARD.decode(&*body).ok().map(Zeroizing::new)
    })
}

/// Bytes under a label.
pub(super) fn write(label: &str, bytes: &[u8]) -> String {
    let body = Zeroizing::new(STANDARD.encode(bytes));
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in body.as_bytes().chunks(WIDTH) {
        text.extend(line.iter().map(|b| char::from(*b)));
        text.push('\n');
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}
