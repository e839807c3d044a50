//! A backup as one file: a tar archive (ustar) that every tar reads.

use super::manifest;
use std::{
    fs::File,
    io::{self, BufReader, BufWriter, Read, Write},
    path::Path,
};

const BLOCK: usize = 512;
const MAGIC: &[u8; 8] = b"ustar\x0000";
/// The largest size that is written in octal digits.
const LARGEST_OCTAL: u64 = 0o777_7777_7777;

/// Writes the files of a backup into one, durably. What it says of itself comes first.
pub(super) fn write(dir: &Path, to: &Path) -> io::Result<()> {
    let mut names = manifest::names(dir)?;
    let own = to.file_name().map(|name| name.to_string_lossy().into_owned());
    names.retain(|name| Some(name) != own.as_ref());
    names.sort_by_key(|name| name != manifest::NAME);
    let file = crate::disk::private_file(to)?;
    file.set_len(0)?;
    let mut archive = BufWriter::new(file);
    for name in names {
        let mut from = File::open(dir.join(&name))?;
        let size = from.metadata()?.len();
        archive.write_all(&header(&name, size)?)?;
        let copied = io::copy(&mut (&mut from).take(size), &mut archive)?;
        if copied != size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        archive.write_all(&[0; BLOCK][..padding(size)])?;
    }
    archive.write_all(&[0; 2 * BLOCK])?;
    archive.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
}

/// Reads an archive into an empty directory. It is read as a stranger's: names stay in the directory, what is no file is refused.
// THREAT[T-supply-backup]
pub(super) fn read(from: &Path, dir: &Path) -> io::Result<()> {
    let mut archive = BufReader::new(File::open(from)?);
    loop {
        let mut block = [0; BLOCK];
        archive.read_exact(&mut block)?;
        if block == [0; BLOCK] {
            return Ok(());
        }
        let (name, size) = entry(&block)?;
        let path = dir.join(&name);
        if let Some(parent) = path.parent() {
            crate::disk::private_dir(parent)?;
        }
        let mut file = BufWriter::new(crate::disk::private_file(&path)?);
        if io::copy(&mut (&mut archive).take(size), &mut file)? != size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        file.flush()?;
        archive.read_exact(&mut [0; BLOCK][..padding(size)])?;
    }
}

fn padding(size: u64) -> usize {
    usize::try_from(size.wrapping_neg() % BLOCK as u64).unwrap_or(0)
}

fn header(name: &str, size: u64) -> io::Result<[u8; BLOCK]> {
    let mut block = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    if name.len() > 100 {
        return Err(io::ErrorKind::InvalidFilename.into());
    }
    put(0, name.as_bytes());
    put(100, b"0000600\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    if size <= LARGEST_OCTAL {
        put(124, format!("{size:011o}\0").as_bytes());
    } else {
        // As every tar of today writes what does not fit.
        put(124, &[0x80, 0, 0, 0]);
        put(128, &size.to_be_bytes());
    }
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, b"0");
    put(257, MAGIC);
    let sum = checksum(&block);
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    Ok(block)
}

/// The sum of the block's bytes, with blanks where the sum itself is.
fn checksum(block: &[u8; BLOCK]) -> u32 {
    let of = |(at, byte): (usize, &u8)| {
        if (148..156).contains(&at) {
            u32::from(b' ')
        } else {
            u32::from(*byte)
        }
    };
    block.iter().enumerate().map(of).sum()
}

fn entry(block: &[u8; BLOCK]) -> io::Result<(String, u64)> {
    let wrong = |what: &'static str| io::Error::new(io::ErrorKind::InvalidData, what);
    let octal = |bytes: &[u8]| {
        let text = std::str::from_utf8(bytes).ok()?.trim_matches(['\0', ' ']);
        u64::from_str_radix(text, 8).ok()
    };
    if octal(&block[148..156]) != Some(checksum(block).into()) {
        return Err(wrong("an entry of the archive was changed"));
    }
    if !matches!(block[156], b'0' | 0) {
        return Err(wrong("the archive holds something that is no file"));
    }
    let name = block[..100].split(|byte| *byte == 0).next().unwrap_or_default();
    let name = std::str::from_utf8(name).ok().filter(|name| manifest::is_plain(name));
    let name = name.ok_or_else(|| wrong("the archive holds a name that is none of a backup"))?;
    let size = match block[124] {
        0x80 => block[128..136].try_into().ok().map(u64::from_be_bytes),
        _ => octal(&block[124..136]),
    };
    Ok((
        name.to_owned(),
        size.ok_or_else(|| wrong("an entry of the archive has no size"))?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn an_archive_holds_what_was_put_in_and_another_tar_reads_it() {
        let place = tempfile::tempdir().unwrap();
        let (from, to, archive) = (
            place.path().join("a"),
            place.path().join("b"),
            place.path().join("x.tar"),
        );
        fs::create_dir_all(from.join("files")).unwrap();
        fs::create_dir(&to).unwrap();
        for (name, size) in [
            ("manifest.json", 0),
            ("files/a", 1),
            ("files/b", BLOCK),
            ("fumehood.db", 70_000),
        ] {
            fs::write(from.join(name), vec![b'x'; size]).unwrap();
        }
        write(&from, &archive).unwrap();
        read(&archive, &to).unwrap();
        assert_eq!(manifest::names(&from).unwrap(), manifest::names(&to).unwrap());
        for name in manifest::names(&from).unwrap() {
            assert_eq!(fs::read(from.join(&name)).unwrap(), fs::read(to.join(&name)).unwrap());
        }
        // Where there is one.
        if let Ok(listed) = std::process::Command::new("tar").arg("-tf").arg(&archive).output() {
            let listed = String::from_utf8(listed.stdout).unwrap();
            assert_eq!(listed, "manifest.json\nfiles/a\nfiles/b\nfumehood.db\n");
        }
    }

    #[test]
    fn sizes_beyond_octal_digits_are_written_and_read() {
        for size in [0, 1, LARGEST_OCTAL, LARGEST_OCTAL + 1, u64::MAX] {
            assert_eq!(
                entry(&header("fumehood.db", size).unwrap()).unwrap(),
                ("fumehood.db".into(), size)
            );
        }
    }

    #[test]
    fn what_is_cut_off_changed_or_leads_out_is_refused() {
        let place = tempfile::tempdir().unwrap();
        let (from, archive) = (place.path().join("a"), place.path().join("x.tar"));
        fs::create_dir(&from).unwrap();
        fs::write(from.join("fumehood.db"), vec![b'x'; 2000]).unwrap();
        write(&from, &archive).unwrap();
        let whole = fs::read(&archive).unwrap();
        let to = place.path().join("b");
        fs::create_dir(&to).unwrap();
        for cut in [100, BLOCK, BLOCK + 100, BLOCK + 2000] {
            fs::write(&archive, &whole[..cut]).unwrap();
            assert!(read(&archive, &to).is_err(), "{cut}");
        }
        let mut changed = whole;
        changed[0] = b'g';
        fs::write(&archive, &changed).unwrap();
        assert!(read(&archive, &to).is_err());
        for name in ["../out", "/out", "a/b/c"] {
            let mut archive_of_name = header(name, 0).unwrap().to_vec();
            archive_of_name.extend([0; 2 * BLOCK]);
            fs::write(&archive, archive_of_name).unwrap();
            assert!(read(&archive, &to).is_err(), "{name}");
        }
        let mut link = header("fumehood.db", 0).unwrap();
        link[156] = b'2';
        let sum = checksum(&link);
        link[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        fs::write(&archive, link).unwrap();
        assert!(read(&archive, &to).is_err());
        assert!(!place.path().join("out").exists());
    }
}
