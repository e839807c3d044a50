//! What the configuration names at a registry or a web server, as the lock has it. Decides without I/O, so a start is the same with a network
//! and without one.

use super::{Entry, Lock, Source};
use fumehood_core::{digest::Digest, name::ComponentName};

/// Why what the lock has is not what the configuration names.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotLocked {
    #[error(
        "fumehood.lock has no {name}, so it is not known which code {place} stands for; `fumehood tool lock` fetches it, checks it and pins it"
    )]
    Absent { name: ComponentName, place: String },
    #[error(
        "fumehood.lock has {name} from {locked}, and the configuration names {named}; `fumehood tool lock` pins what is there, or name what is \
         locked"
    )]
    Elsewhere {
        name: ComponentName,
        locked: String,
        named: String,
    },
    #[error(
        "the configuration names {named} for {name}, and fumehood.lock has {locked}; `fumehood tool lock` pins what is named, or name what is locked"
    )]
    Other {
        name: ComponentName,
        named: Digest,
        locked: Digest,
    },
}

/// The component that a section names, as it is locked. `digest` is the code that the section asks for besides.
// THREAT[T-supply-moved-tag]: what a tag stands for is looked up when it is locked, and at no start.
pub(crate) fn locked<'l>(
    lock: &'l Lock,
    name: &ComponentName,
    source: &Source,
    digest: Option<Digest>,
) -> Result<&'l Entry, NotLocked> {
    let place = source.place();
    let Some(entry) = lock.get(name) else {
        return Err(NotLocked::Absent {
            name: name.clone(),
            place,
        });
    };
    if entry.source != place {
        return Err(NotLocked::Elsewhere {
            name: name.clone(),
            locked: entry.source.clone(),
            named: place,
        });
    }
    let pinned = match source {
        Source::Oci(_) => entry.artifact,
        Source::Web { .. } | Source::File(_) => Some(entry.digest),
    };
    let differs = |named: Option<Digest>, locked: Option<Digest>| match (named, locked) {
        (Some(named), locked) if locked != Some(named) => Some((named, locked.unwrap_or(entry.digest))),
        _ => None,
    };
    match differs(source.pinned(), pinned).or_else(|| differs(digest, Some(entry.digest))) {
        Some((named, locked)) => Err(NotLocked::Other {
            name: name.clone(),
            named,
            locked,
        }),
        None => Ok(entry),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_gets_what_is_locked_from_its_own_place_and_of_its_own_digests() {
        let (artifact, code, other) = (Digest::of(b"artifact"), Digest::of(b"code"), Digest::of(b"other"));
        let text = format!(
            "version = 1\n[[component]]\nname = \"sums\"\nsource = \"oci://r.example/acme/sums:1\"\nartifact = \"{artifact}\"\ndigest = \"{code}\"\n\
             [[component]]\nname = \"web\"\nsource = \"https://w.example/web.wasm\"\ndigest = \"{code}\"\n"
        );
        let lock: Lock = toml::from_str(&text).unwrap();
        let find = |name: &str, source: &str, digest| {
            let found = locked(&lock, &name.parse().unwrap(), &source.parse().unwrap(), digest);
            found.map(|entry| entry.digest).map_err(|error| error.to_string())
        };
        let (oci, web) = ("oci://r.example/acme/sums:1", "https://w.example/web.wasm");
        assert_eq!(find("sums", oci, None), Ok(code));
        assert_eq!(find("sums", &format!("{oci}@{artifact}"), Some(code)), Ok(code));
        assert_eq!(find("web", &format!("{web}@{code}"), None), Ok(code));
        for (name, source, digest, says) in [
            ("other", oci.to_owned(), None, "has no other"),
            (
                "sums",
                "oci://r.example/acme/sums:2".to_owned(),
                None,
                "from oci://r.example/acme/sums:1",
            ),
            ("sums", format!("{oci}@{code}"), None, "fumehood.lock has"),
            ("sums", oci.to_owned(), Some(other), "fumehood.lock has"),
            ("web", format!("{web}@{other}"), None, "fumehood.lock has"),
        ] {
            let refused = find(name, &source, digest).unwrap_err();
            assert!(
                refused.contains(says) && refused.contains("fumehood tool lock"),
                "{source}: {refused}"
            );
        }
    }
}
