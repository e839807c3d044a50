//! Reaching for files.

use fumehood::Failure;
use std::{fs, io::Write as _};

/// Reads a file anywhere.
#[fumehood::tool(effect = "pure", read_only)]
pub fn read_file(
    /// As the operating system takes it.
    path: String,
) -> Result<String, Failure> {
    Ok(String::from_utf8_lossy(&fs::read(path)?).into_owned())
}

/// Writes a file anywhere.
#[fumehood::tool(effect = "idempotent", destructive)]
pub fn write_file(
    /// As the operating system takes it.
    path: String,
    /// How much, in KiB.
    kib: u64,
) -> Result<String, Failure> {
    fill(&path, kib)?;
    Ok(format!("wrote {kib} KiB"))
}

/// Lists a directory anywhere.
#[fumehood::tool(effect = "pure", read_only)]
pub fn list_dir(
    /// As the operating system takes it.
    path: String,
) -> Result<Vec<String>, Failure> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// Fills the temporary directory.
#[fumehood::tool(effect = "idempotent")]
pub fn tmp_fill(
    /// How much, in KiB.
    kib: u64,
) -> Result<String, Failure> {
    fill("/tmp/fill", kib)?;
    Ok(format!("wrote {kib} KiB"))
}

/// Makes a hard link, to reach a file by another name, and reads through it.
#[fumehood::tool(effect = "idempotent", destructive)]
pub fn link_file(
    /// What the link names.
    from: String,
    /// The link.
    to: String,
) -> Result<String, Failure> {
    fs::hard_link(from, &to)?;
    Ok(String::from_utf8_lossy(&fs::read(to)?).into_owned())
}

fn fill(path: &str, kib: u64) -> std::io::Result<()> {
    let mut file = fs::File::create(path)?;
    let block = [b'z'; 1024];
    for _ in 0..kib {
        file.write_all(&block)?;
    }
    file.flush()
}
