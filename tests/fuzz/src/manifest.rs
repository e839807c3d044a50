//! Manifests and grants: what is understood means the same when written down, and grants no more than it says.
//! Input: a manifest, a line `---`, a grant.

use fumehood_policy::{
    authority::{Authority, HostPolicy, SessionNarrowing},
    grant::{Grant, wider_than},
    manifest::Manifest,
};

pub(crate) fn run(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let (manifest, grant) = text.split_once("\n---\n").unwrap_or((text, ""));
    let Ok(manifest) = Manifest::parse_toml(manifest) else {
        return;
    };
    let written = toml::to_string(&manifest).expect("a manifest can be written");
    let again = Manifest::parse_toml(&written).expect("what was written can be read");
    assert_eq!(again, manifest, "{written}");
    let _ = manifest.describe();

    let all = Grant::everything_requested(&manifest);
    assert!(
        wider_than(&manifest, &all).is_empty(),
        "{:?}",
        wider_than(&manifest, &all)
    );
    let Ok(grant) = Grant::parse_toml(grant) else { return };
    let written = toml::to_string(&grant).expect("a grant can be written");
    assert_eq!(Grant::parse_toml(&written).as_ref(), Ok(&grant), "{written}");
    no_more_than_requested(&manifest, &grant, &all);
}

/// Whatever is granted, a call gets no more than its component requests, and with nothing granted nothing.
fn no_more_than_requested(manifest: &Manifest, grant: &Grant, all: &Grant) {
    let (session, host) = (SessionNarrowing::default(), HostPolicy::default());
    let got = Authority::compute(manifest, grant, &[], &session, &host);
    let most = Authority::compute(manifest, all, &[], &session, &host);
    assert!(most.files.covers(&got.files), "{:?} beyond {:?}", got.files, most.files);
    assert!(got.kv <= most.kv);
    assert!(got.sign.iter().all(|name| most.sign.contains(name)));
    assert!(got.env.iter().all(|name| most.env.contains(name)));
    let nothing = Authority::compute(manifest, &Grant::none(), &[], &session, &host);
    assert!(nothing.network.is_closed() && nothing.credentials.is_empty() && nothing.sign.is_empty());
    assert!(!nothing.files.access.can_read() && !nothing.kv.can_read() && nothing.env.is_empty());
    assert!(nothing.call_tools.is_closed());
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    const MANIFEST: &str = r#"name = "github"
version = "0.1.0"
description = "Issues."
[network]
allow = ["https://api.github.com/repos/", "GET https://raw.githubusercontent.com"]
deny = ["https://api.github.com/repos/private"]
[[credential]]
secret = "GITHUB_TOKEN"
hosts = ["api.github.com"]
inject = { header = "authorization", format = "Bearer {}" }
[files]
workspace = "read-write"
paths = ["src/", "docs"]
[kv]
access = "read-write"
[secrets]
sign = ["WEBHOOK_KEY"]
[tools]
call = ["files_*"]
[env]
names = ["TZ"]
[limits]
memory = "64MiB"
cpu = "2s"
http_requests = 20
[rate]
calls = "60/min"
"#;
    let grants = [
        "",
        "[network]\nallow = [\"https://api.github.com/repos/x\"]\n[files]\nworkspace = \"read\"\npaths = [\"src/a\"]\n",
        "[kv]\naccess = \"read\"\n[secrets]\nsign = [\"WEBHOOK_KEY\", \"OTHER\"]\n[limits]\nmemory = \"1GiB\"\n",
        "[[credential]]\nsecret = \"GITHUB_TOKEN\"\nhosts = [\"*.github.com\"]\n",
    ];
    let mut seeds: Vec<Vec<u8>> = grants
        .map(|grant| format!("{MANIFEST}\n---\n{grant}").into_bytes())
        .into();
    seeds.push(
        b"name = \"a\"\nversion = \"1.0.0\"\ndescription = \"x\"\n[limits]\ncpu = \"1h\"\noutput = \"0\"\n".to_vec(),
    );
    seeds
}
