//! Bytes in memory that are mapped like a file, and that nobody changes once they are sealed: neither a process that has a handle on
//! them nor this one.
//!
//! What is mapped costs nothing until it is touched, and the same pages serve as often as they are mapped. A file on disk would do that,
//! too, but whoever may write to it could change it after it was looked at.

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use std::{
    fs::File,
    io::{self, Write},
    os::fd::AsRawFd as _,
    path::PathBuf,
};

/// Bytes that are being gathered.
pub(crate) struct Unsealed(File);

/// Bytes that stay as they are.
pub(crate) struct Sealed(File);

impl Unsealed {
    /// None yet.
    ///
    /// # Errors
    /// When the system has no memory, or no such files.
    pub(crate) fn new() -> io::Result<Self> {
        let common = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let made = match memfd_create("compiled-code", common | MemfdFlags::NOEXEC_SEAL) {
            // A kernel that does not know that nothing of this is a program.
            Err(rustix::io::Errno::INVAL) => memfd_create("compiled-code", common),
            made => made,
        };
        Ok(Self(made?.into()))
    }

    /// Seals them: what a mapping has, it keeps.
    ///
    /// # Errors
    /// When the system refuses.
    // THREAT[T-box-cache-tamper]
    pub(crate) fn seal(self) -> io::Result<Sealed> {
        fcntl_add_seals(
            &self.0,
            SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL,
        )?;
        Ok(Sealed(self.0))
    }
}

impl Write for Unsealed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Sealed {
    /// Under which this process opens them, as long as this is there.
    pub(crate) fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, io::Read as _};

    #[test]
    fn what_is_sealed_can_be_read_and_never_changed() {
        let mut gathered = Unsealed::new().unwrap();
        gathered.write_all(b"some ").unwrap();
        gathered.write_all(b"code").unwrap();
        let mut writable = gathered.0.try_clone().unwrap();
        let sealed = gathered.seal().unwrap();

        assert_eq!(fs::read(sealed.path()).unwrap(), b"some code");
        assert!(writable.write_all(b"more").is_err(), "longer");
        assert!(writable.set_len(1).is_err(), "shorter");
        let again = fs::OpenOptions::new().write(true).open(sealed.path());
        let changed = again.and_then(|mut file| file.write_all(b"evil"));
        assert!(changed.is_err(), "other bytes");
        let mut text = String::new();
        File::open(sealed.path()).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "some code");
    }
}
