//! What a tree promises: the quota holds on every way in, together and at once.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::needless_pass_by_value,
    reason = "helpers of tests"
)]

use cap_std::{ambient_authority, fs::Dir};
use fumehood_files::{Create, FileError, Full, Limit, Open, OpenFile, Opened, Quota, Tree, Usage};
use std::{path::PathBuf, sync::Arc, time::Duration};

struct Fixture {
    tree: Arc<Tree>,
    path: PathBuf,
    _dir: tempfile::TempDir,
}

fn fixture(quota: Quota) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    Fixture {
        tree: Tree::open(open(dir.path()), quota).unwrap(),
        path: dir.path().to_owned(),
        _dir: dir,
    }
}

fn open(path: &std::path::Path) -> Dir {
    Dir::open_ambient_dir(path, ambient_authority()).unwrap()
}

const SMALL: Quota = Quota {
    bytes: 1000,
    file_bytes: 600,
    entries: 5,
    entry_bytes: 0,
};

const NEW: Open = Open {
    read: true,
    write: true,
    create: Create::IfAbsent,
    truncate: false,
    follow: true,
    directory: false,
};

impl Fixture {
    fn file(&self, path: &str) -> OpenFile {
        match self.try_open(path, &NEW).unwrap() {
            Opened::File(file) => file,
            Opened::Directory(_) => panic!("a directory"),
        }
    }

    fn try_open(&self, path: &str, how: &Open) -> Result<Opened, FileError> {
        self.tree.open_at(self.tree.root(), path, how)
    }

    fn filled(&self, path: &str, len: usize) -> OpenFile {
        let file = self.file(path);
        assert_eq!(file.write_at(0, &vec![b'x'; len]).unwrap(), len);
        file
    }

    fn remove(&self, path: &str) -> Result<(), FileError> {
        self.tree.remove_file(self.tree.root(), path)
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), FileError> {
        self.tree.rename(self.tree.root(), from, self.tree.root(), to)
    }

    fn mkdir(&self, path: &str) -> Result<(), FileError> {
        self.tree.create_dir(self.tree.root(), path)
    }

    fn len(&self, path: &str) -> u64 {
        std::fs::metadata(self.path.join(path)).unwrap().len()
    }

    /// The account says what is there.
    fn is_exact(&self) {
        let counted = Tree::open(open(&self.path), SMALL).unwrap().usage();
        assert_eq!(self.tree.usage(), counted);
    }
}

fn full(result: Result<impl std::fmt::Debug, FileError>) -> Limit {
    match result {
        Err(FileError::Full(Full { limit, .. })) => limit,
        other => panic!("should be full: {other:?}"),
    }
}

fn read_only(result: Result<impl std::fmt::Debug, FileError>) {
    assert!(matches!(result, Err(FileError::ReadOnly)), "{result:?}");
}

#[test]
fn writing_beyond_the_bytes_writes_nothing() {
    let f = fixture(SMALL);
    f.filled("a", 600);
    let b = f.filled("b", 400);
    assert_eq!(full(b.write_at(400, b"x")), Limit::Bytes);
    assert_eq!(full(b.write_at(300, &[b'y'; 200])), Limit::Bytes);
    assert_eq!(full(b.append(b"x")), Limit::Bytes);
    assert_eq!(full(b.set_len(401)), Limit::Bytes);
    assert_eq!(f.len("b"), 400);
    // Within what is there, nothing grows.
    b.write_at(300, &[b'z'; 100]).unwrap();
    f.is_exact();
}

#[test]
fn a_file_beyond_its_own_limit_is_refused_however_it_grows() {
    let f = fixture(SMALL);
    let a = f.file("a");
    assert_eq!(full(a.write_at(600, b"x")), Limit::FileBytes);
    assert_eq!(full(a.write_at(u64::MAX, b"xx")), Limit::FileBytes);
    assert_eq!(full(a.set_len(601)), Limit::FileBytes);
    a.set_len(600).unwrap();
    assert_eq!(full(a.append(b"x")), Limit::FileBytes);
    f.is_exact();
}

#[test]
fn a_hole_counts_like_what_fills_it() {
    let f = fixture(SMALL);
    f.file("sparse").set_len(600).unwrap();
    let other = f.file("other");
    assert_eq!(full(other.write_at(400, b"x")), Limit::Bytes);
    other.write_at(399, b"x").unwrap();
    assert_eq!(f.tree.usage().bytes, 1000);
    f.is_exact();
}

#[test]
fn what_is_cut_off_or_deleted_can_be_used_again() {
    let f = fixture(SMALL);
    let a = f.filled("a", 600);
    a.set_len(100).unwrap();
    f.filled("b", 500);
    drop(f.filled("c", 400));
    f.remove("c").unwrap();
    f.filled("d", 400);
    f.is_exact();
    let emptied = f.try_open("b", &Open { truncate: true, ..NEW }).unwrap();
    assert_eq!(f.tree.usage().bytes, 500);
    drop(emptied);
    f.is_exact();
}

#[test]
fn entries_of_every_kind_count() {
    let f = fixture(SMALL);
    f.mkdir("dir").unwrap();
    f.mkdir("dir/below").unwrap();
    f.tree.symlink(f.tree.root(), "nowhere", "link").unwrap();
    f.file("a");
    f.file("b");
    f.file("b");
    assert_eq!(full(f.try_open("c", &NEW)), Limit::Entries);
    assert_eq!(full(f.mkdir("c")), Limit::Entries);
    assert_eq!(full(f.tree.symlink(f.tree.root(), "nowhere", "c")), Limit::Entries);
    assert!(!f.path.join("c").exists());
    // Moving makes none, and moving onto a file frees one.
    f.rename("a", "dir/a").unwrap();
    f.rename("dir/a", "b").unwrap();
    f.file("c");
    f.tree.remove_dir(f.tree.root(), "dir/below").unwrap();
    f.remove("link").unwrap();
    f.is_exact();
}

#[test]
fn what_fails_costs_nothing() {
    let f = fixture(SMALL);
    f.mkdir("dir").unwrap();
    f.file("a");
    for _ in 0..10 {
        assert!(f.mkdir("dir").is_err());
        assert!(f.mkdir("none/dir").is_err());
        assert!(f.try_open("dir", &NEW).is_err());
        assert!(f.try_open("../out", &NEW).is_err());
        assert!(
            f.try_open(
                "a",
                &Open {
                    create: Create::Always,
                    ..NEW
                }
            )
            .is_err()
        );
        assert!(f.tree.symlink(f.tree.root(), "x", "a").is_err());
        assert!(f.tree.symlink(f.tree.root(), "/etc", "b").is_err());
        assert!(f.remove("none").is_err());
        assert!(f.tree.remove_dir(f.tree.root(), "a").is_err());
        assert!(f.rename("none", "a").is_err());
        assert!(f.rename("a", "dir").is_err());
    }
    f.is_exact();
}

#[test]
fn a_deleted_file_is_charged_until_it_is_closed() {
    let f = fixture(SMALL);
    let a = f.filled("a", 300);
    let reader = f
        .try_open(
            "a",
            &Open {
                read: true,
                ..Open::default()
            },
        )
        .unwrap();
    f.remove("a").unwrap();
    assert_eq!(f.tree.usage(), Usage { bytes: 300, entries: 0 });
    // Writing on is charged, too.
    a.append(&[b'x'; 300]).unwrap();
    assert_eq!(full(a.append(b"x")), Limit::FileBytes);
    let b = f.filled("b", 400);
    assert_eq!(full(b.append(b"x")), Limit::Bytes);
    drop(a);
    assert_eq!(full(b.append(b"x")), Limit::Bytes);
    drop(reader);
    assert_eq!(f.tree.usage().bytes, 400);
    f.is_exact();
}

#[test]
fn a_file_that_another_is_moved_onto_is_charged_until_it_is_closed() {
    let f = fixture(SMALL);
    let old = f.filled("old", 500);
    f.filled("new", 400);
    f.rename("new", "old").unwrap();
    assert_eq!(f.tree.usage(), Usage { bytes: 900, entries: 1 });
    drop(old);
    assert_eq!(f.tree.usage().bytes, 400);
    f.rename("old", "old").unwrap();
    f.is_exact();
}

#[test]
fn writers_at_once_do_not_pass_the_quota_together() {
    let f = fixture(Quota {
        bytes: 100_000,
        file_bytes: 60_000,
        entries: 50,
        entry_bytes: 0,
    });
    let staged = tempfile::tempdir().unwrap();
    let staging = open(staged.path());
    std::thread::scope(|scope| {
        for worker in 0..6_u64 {
            let (f, staging) = (&f, &staging);
            scope.spawn(move || {
                let shared = f.file("shared");
                for round in 0..200_u64 {
                    let name = format!("{}", (worker * 7 + round) % 80);
                    let how = Open {
                        truncate: round.is_multiple_of(5),
                        ..NEW
                    };
                    if let Ok(Opened::File(file)) = f.try_open(&name, &how) {
                        let _ = file.append(&[1; 700]);
                        let _ = file.write_at(round * 37, &[2; 300]);
                        let _ = file.set_len((round % 11) * 300);
                        if round.is_multiple_of(3) {
                            let _ = f.remove(&name);
                            let _ = file.append(&[3; 500]);
                        }
                    }
                    let _ = shared.append(&[4; 10]);
                    let _ = f.rename(&name, &format!("{}", round % 80));
                    let _ = f.mkdir(&format!("d{worker}"));
                    let _ = f.tree.remove_dir(f.tree.root(), &format!("d{worker}"));
                    let stage = format!("{worker}-{round}");
                    staging.write(&stage, vec![5; 2000]).unwrap();
                    let more = Usage {
                        bytes: 2000,
                        entries: 1,
                    };
                    let placed = f.tree.reserve(more).and_then(|reserved| {
                        f.tree.place(
                            reserved,
                            (staging, &stage),
                            &format!("p{}/{}", worker, round % 4),
                            |_| Ok(()),
                        )
                    });
                    if placed.is_err() {
                        staging.remove_file(&stage).unwrap();
                    }
                    let used = f.tree.usage();
                    assert!(used.bytes <= 100_000 && used.entries <= 50, "{used:?}");
                }
            });
        }
    });
    f.is_exact();
}

#[test]
fn room_that_somebody_made_on_the_disk_is_found_after_a_while() {
    let f = fixture(SMALL);
    drop(f.filled("a", 600));
    drop(f.filled("b", 400));
    std::fs::remove_file(f.path.join("a")).unwrap();
    let b = f.file("b");
    // The count of the start is believed for a second.
    let mut refused = 0;
    while full_or_done(b.append(b"x")) {
        refused += 1;
        assert!(refused < 1000, "never counted again");
        std::thread::park_timeout(Duration::from_millis(20));
    }
    f.is_exact();
}

fn full_or_done(result: Result<usize, FileError>) -> bool {
    match result {
        Ok(_) => false,
        Err(FileError::Full(_)) => true,
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_read_only_file_is_not_written_moved_replaced_or_removed() {
    let f = fixture(SMALL);
    f.mkdir("dir").unwrap();
    f.mkdir("dir/below").unwrap();
    drop(f.filled("dir/below/fixed", 5));
    drop(f.filled("other", 1));
    f.tree.make_read_only("dir/below/fixed").unwrap();
    let path = "dir/below/fixed";
    read_only(f.try_open(path, &NEW));
    read_only(f.try_open(
        path,
        &Open {
            write: true,
            ..Open::default()
        },
    ));
    read_only(f.try_open(
        path,
        &Open {
            truncate: true,
            ..Open::default()
        },
    ));
    read_only(f.remove(path));
    read_only(f.rename(path, "moved"));
    read_only(f.rename("other", path));
    read_only(f.rename("dir/below", "moved"));
    read_only(f.rename("dir", "moved"));
    read_only(f.tree.remove_dir(f.tree.root(), "dir"));
    read_only(f.tree.check_touchable(f.tree.root(), path, true));
    read_only(f.tree.remove::<FileError>(path, |_| Ok(())));
    // Reading, and everything beside it, goes on.
    assert!(
        f.try_open(
            path,
            &Open {
                read: true,
                ..Open::default()
            }
        )
        .is_ok()
    );
    drop(f.file("dir/below/new"));
    f.remove("dir/below/new").unwrap();
    f.is_exact();
}

#[test]
fn a_link_to_a_read_only_file_does_not_make_it_writable() {
    let f = fixture(SMALL);
    drop(f.filled("fixed", 5));
    f.tree.make_read_only("fixed").unwrap();
    f.tree.symlink(f.tree.root(), "fixed", "link").unwrap();
    read_only(f.try_open("link", &NEW));
    f.remove("link").unwrap();
}

#[test]
fn nothing_of_a_closed_tree_changes() {
    let f = fixture(SMALL);
    let a = f.filled("a", 5);
    f.tree.close();
    let closed = [
        a.append(b"x").map(drop),
        a.set_len(0),
        f.mkdir("d"),
        f.remove("a"),
        f.rename("a", "b"),
        f.try_open("c", &NEW).map(drop),
    ];
    for result in closed {
        assert!(matches!(result, Err(FileError::Closed)), "{result:?}");
    }
    assert_eq!(f.len("a"), 5);
}

#[test]
fn pipes_and_devices_are_not_opened() {
    let f = fixture(SMALL);
    let made = std::process::Command::new("mkfifo")
        .arg(f.path.join("pipe"))
        .status()
        .unwrap();
    assert!(made.success());
    let _socket = std::os::unix::net::UnixListener::bind(f.path.join("socket")).unwrap();
    f.tree.symlink(f.tree.root(), "pipe", "link").unwrap();
    for path in ["pipe", "socket", "link"] {
        for write in [false, true] {
            let how = Open {
                read: true,
                write,
                follow: true,
                ..Open::default()
            };
            let result = f.try_open(path, &how);
            assert!(matches!(result, Err(FileError::Special)), "{path}: {result:?}");
        }
    }
}

#[test]
fn links_lead_nowhere_outside() {
    let f = fixture(SMALL);
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret"), "secret").unwrap();
    let target = outside.path().join("secret");
    let up = format!("../{}/secret", outside.path().file_name().unwrap().to_str().unwrap());
    std::os::unix::fs::symlink(&target, f.path.join("absolute")).unwrap();
    std::os::unix::fs::symlink(&up, f.path.join("relative")).unwrap();
    std::os::unix::fs::symlink("relative", f.path.join("chain")).unwrap();
    for path in ["absolute", "relative", "chain", "../x", "/etc/passwd", &up] {
        for how in [
            NEW,
            Open {
                read: true,
                follow: true,
                ..Open::default()
            },
        ] {
            assert!(f.try_open(path, &how).is_err(), "{path}");
        }
    }
    assert_eq!(std::fs::read_to_string(target).unwrap(), "secret");
}

#[test]
fn a_link_swapped_between_look_and_use_leads_nowhere_outside() {
    let f = fixture(Quota::default());
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("file"), "outside").unwrap();
    f.mkdir("in").unwrap();
    f.file("in/file").write_at(0, b"inside").unwrap();
    std::os::unix::fs::symlink(outside.path(), f.path.join("out")).unwrap();
    f.mkdir("way").unwrap();
    std::thread::scope(|scope| {
        let swapping = scope.spawn(|| {
            // Somebody on the disk itself: no gate keeps this one out.
            for _ in 0..3000 {
                let _ = std::fs::rename(f.path.join("in"), f.path.join("at"));
                let _ = std::fs::rename(f.path.join("at"), f.path.join("in"));
                let _ = std::fs::rename(f.path.join("out"), f.path.join("at"));
                let _ = std::fs::rename(f.path.join("at"), f.path.join("out"));
            }
        });
        while !swapping.is_finished() {
            if let Ok(Opened::File(file)) = f.try_open(
                "at/file",
                &Open {
                    read: true,
                    write: true,
                    ..Open::default()
                },
            ) {
                let mut text = [0; 7];
                let n = std::os::unix::fs::FileExt::read_at(&**file.handle(), &mut text, 0).unwrap();
                assert_eq!(&text[..n], b"inside");
            }
        }
    });
    assert_eq!(std::fs::read_to_string(outside.path().join("file")).unwrap(), "outside");
}
