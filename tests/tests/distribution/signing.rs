//! Signatures: what a trusted key vouches for is added, and what it does not is not.

use crate::{adding::Files, component, digest, lock, refused_without_a_trace, registry::Registry, said, write};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use fumehood_tests::{Place, expect_json, refused};
use reqwest::Method;
use serde_json::{Value, json};

/// Keys, in a folder of their own.
struct Keys {
    place: Place,
}

impl Keys {
    /// With these pairs.
    async fn made(names: &[&str]) -> Self {
        let place = Place::compiled("");
        for name in names {
            let made = sealed(&place, &["tool", "key", name]).await;
            assert!(made["id"].as_str().unwrap().starts_with("sha256:"), "{made}");
        }
        Self { place }
    }

    fn public(&self, name: &str) -> String {
        std::fs::read_to_string(self.place.path().join(format!("{name}.pub"))).unwrap()
    }

    async fn publish(&self, wasm: &[u8], to: &str, key: Option<&str>) -> Value {
        write(&self.place, "x.wasm", wasm);
        let file = key.map(|key| format!("{key}.key"));
        let mut args = vec!["tool", "publish", "x.wasm", to];
        if let Some(file) = &file {
            args.extend(["--key", file]);
        }
        sealed(&self.place, &args).await
    }

    /// A configuration that trusts one of them.
    fn trusting(&self, name: &str, more: &str) -> String {
        format!(
            "[tools]\nsignatures = \"when-known\"\n[tools.trusted_keys.{name}]\nkey = \"\"\"\n{}\"\"\"\n{more}\n",
            self.public(name)
        )
    }
}

/// With the passphrase of the keys.
async fn sealed(place: &Place, args: &[&str]) -> Value {
    let output = place
        .command(&[&["--json"], args].concat())
        .env("FUMEHOOD_KEY_PASSPHRASE", "open sesame")
        .output()
        .await
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test]
async fn what_a_trusted_key_signed_is_added_and_its_key_is_pinned() {
    let registry = Registry::start().await;
    let keys = Keys::made(&["acme"]).await;
    let to = registry.source("acme/sums");
    let published = keys.publish(&component("sums", "1.0.0", ""), &to, Some("acme")).await;
    let artifact = published["artifact"].as_str().unwrap();
    let tag = format!("acme/sums:{}.sig", artifact.replace(':', "-"));
    let signature = registry.manifest(&tag);
    assert_eq!(
        signature["layers"][0]["mediaType"],
        "application/vnd.dev.cosign.simplesigning.v1+json"
    );
    let again = keys.publish(&component("sums", "1.0.0", ""), &to, Some("acme")).await;
    assert_eq!(again["unchanged"], true);
    assert_eq!(registry.manifest(&tag), signature, "signed once");

    let place = Place::new(&keys.trusting("acme", ""));
    let source = registry.source("acme/sums:1.0.0");
    let added = place.json(&["tool", "add", &source]).await;
    assert_eq!(added["locked"]["key"], published["key"]);
    assert!(lock(&place).contains(published["key"].as_str().unwrap()));
    // From the cache, with what was pinned of its key.
    place.json(&["tool", "add", "--locked"]).await;
}

#[tokio::test]
async fn what_is_not_signed_by_a_key_that_counts_is_not_added() {
    let registry = Registry::start().await;
    let keys = Keys::made(&["acme", "mallory"]).await;
    let to = registry.source("acme/sums");
    keys.publish(&component("sums", "1.0.0", ""), &to, None).await;
    keys.publish(&component("sums", "1.1.0", ""), &to, Some("mallory"))
        .await;
    let place = Place::empty(&keys.trusting("acme", ""));
    let unsigned = refused_without_a_trace(&place, &["tool", "add", &registry.source("acme/sums:1.0.0")]).await;
    assert!(
        unsigned.contains("not signed") && unsigned.contains("acme"),
        "{unsigned}"
    );
    let other = refused_without_a_trace(&place, &["tool", "add", &registry.source("acme/sums:1.1.0")]).await;
    assert!(other.contains("signed, but not by acme"), "{other}");
}

#[tokio::test]
async fn what_is_kept_counts_also_with_a_signature_by_a_key_that_is_trusted_since() {
    let registry = Registry::start().await;
    let keys = Keys::made(&["acme", "other"]).await;
    let to = registry.source("acme/sums");
    keys.publish(&component("sums", "1.0.0", ""), &to, Some("acme")).await;
    // Added when nobody was trusted, so without a key in the lock.
    let place = Place::new("");
    place.json(&["tool", "add", &registry.source("acme/sums:1.0.0")]).await;
    assert!(!lock(&place).contains("key ="));
    let trust = |key: &str| {
        let data = place.data();
        let config = format!("data_dir = {data:?}\n{}", keys.trusting(key, ""));
        std::fs::write(place.path().join("fumehood.toml"), config).unwrap();
    };
    trust("acme");
    place.json(&["tool", "add", "--locked"]).await;
    trust("other");
    let other = place.run(&["tool", "add", "--locked"]).await;
    assert_eq!(other.status.code(), Some(1));
    assert!(said(&other).contains("signed, but not by other"), "{}", said(&other));
    // Another key signs it as well.
    keys.publish(&component("sums", "1.0.0", ""), &to, Some("other")).await;
    place.json(&["tool", "add", "--locked"]).await;
    // Without a network only what was pinned is known.
    drop(registry);
    let offline = place.run(&["tool", "add", "--locked"]).await;
    for part in ["is not signed", "other", "can't be reached"] {
        assert!(said(&offline).contains(part), "{part} in {}", said(&offline));
    }
}

#[tokio::test]
async fn as_many_signatures_as_are_looked_at_are_not_added_to() {
    let registry = Registry::start().await;
    let keys = Keys::made(&["acme"]).await;
    let (wasm, to) = (component("sums", "1.0.0", ""), registry.source("acme/sums"));
    let published = keys.publish(&wasm, &to, None).await;
    let tag = format!(
        "acme/sums:{}.sig",
        published["artifact"].as_str().unwrap().replace(':', "-")
    );
    let signatures = |count: usize, size: u64| {
        let layer = json!({
            "mediaType": "application/vnd.dev.cosign.simplesigning.v1+json", "digest": digest(b"x"), "size": size,
            "annotations": {"dev.cosignproject.cosign/signature": "eA=="},
        });
        json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "layers": vec![layer; count],
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(b"{}"), "size": 2},
        })
    };
    let full = signatures(16, 1);
    registry.put(&tag, &full);
    write(&keys.place, "x.wasm", &wasm);
    let refused = keys
        .place
        .command(&["tool", "publish", "x.wasm", &to, "--key", "acme.key"])
        .env("FUMEHOOD_KEY_PASSPHRASE", "open sesame")
        .output()
        .await
        .unwrap();
    assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
    assert!(said(&refused).contains("16 signatures"), "{}", said(&refused));
    assert_eq!(registry.manifest(&tag), full, "none is lost");
    registry.put(&tag, &signatures(15, 1));
    keys.publish(&wasm, &to, Some("acme")).await;
    assert_eq!(registry.manifest(&tag)["layers"].as_array().unwrap().len(), 16);
    // One that is too large is no matter of how large a component may be.
    registry.put(&tag, &signatures(1, 1 << 30));
    let place = Place::empty(&keys.trusting("acme", ""));
    let large = refused_without_a_trace(&place, &["tool", "add", &registry.source("acme/sums:1.0.0")]).await;
    assert!(
        large.contains("a signature") && !large.contains("component_size"),
        "{large}"
    );
}

#[tokio::test]
async fn a_signature_of_another_artifact_vouches_for_nothing() {
    let registry = Registry::start().await;
    let keys = Keys::made(&["acme"]).await;
    let to = registry.source("acme/sums");
    let good = keys.publish(&component("sums", "1.0.0", ""), &to, Some("acme")).await;
    let evil = keys
        .publish(&component("sums", "1.1.0", "[kv]\naccess = \"read\"\n"), &to, None)
        .await;
    let tag = |published: &Value| {
        format!(
            "acme/sums:{}.sig",
            published["artifact"].as_str().unwrap().replace(':', "-")
        )
    };
    registry.move_tag(&tag(&good), &tag(&evil));
    let place = Place::empty(&keys.trusting("acme", ""));
    let stolen = refused_without_a_trace(&place, &["tool", "add", &registry.source("acme/sums:1.1.0")]).await;
    assert!(stolen.contains("signed, but not by acme"), "{stolen}");
}

/// What `cosign` 3 states of an artifact, signed by this key, as a bundle.
async fn bundle(keys: &Keys, key: &str, artifact: &str, predicate: &str) -> Value {
    let hex = artifact.strip_prefix("sha256:").unwrap();
    let statement = json!({
        "_type": "https://in-toto.io/Statement/v1", "subject": [{"digest": {"sha256": hex}, "annotations": {}}],
        "predicateType": predicate, "predicate": {},
    });
    let (statement, kind) = (statement.to_string(), "application/vnd.in-toto+json");
    let message = format!("DSSEv1 {} {kind} {} {statement}", kind.len(), statement.len());
    write(&keys.place, "statement", message.as_bytes());
    sealed(
        &keys.place,
        &["tool", "sign", "statement", "--key", &format!("{key}.key")],
    )
    .await;
    let signature = std::fs::read_to_string(keys.place.path().join("statement.sig")).unwrap();
    json!({
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": {"publicKey": {"hint": "hint"}},
        "dsseEnvelope": {"payload": STANDARD.encode(statement), "payloadType": kind, "signatures": [{"sig": signature}]},
    })
}

/// Puts a bundle into a repository, beside what it is about, in the way that there is without a list of referrers.
fn refer(registry: &Registry, repository: &str, artifact: &str, bundle: &Value) {
    let bytes = bundle.to_string();
    let layer = json!({"mediaType": bundle["mediaType"], "size": bytes.len(), "digest": digest(bytes.as_bytes())});
    registry.put_blob(bytes.into());
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({
        "schemaVersion": 2, "mediaType": kind, "artifactType": bundle["mediaType"], "layers": [layer],
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "size": 2, "digest": digest(b"{}")},
        "subject": {"mediaType": kind, "size": 1, "digest": artifact},
    });
    let text = manifest.to_string();
    let own = digest(text.as_bytes());
    registry.put(&format!("{repository}@{own}"), &manifest);
    let index = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{"mediaType": kind, "size": text.len(), "digest": own, "artifactType": "application/vnd.oci.empty.v1+json"}],
    });
    registry.put(&format!("{repository}:{}", artifact.replace(':', "-")), &index);
}

#[tokio::test]
async fn a_bundle_that_refers_to_an_artifact_signs_it_and_a_host_that_asks_for_signatures_takes_it() {
    const SIGNED: &str = "https://sigstore.dev/cosign/sign/v1";
    let registry = Registry::start().await;
    let keys = Keys::made(&["acme", "mallory"]).await;
    let source = registry.source("acme/sums:1.0.0");
    let published = keys
        .publish(&component("sums", "1.0.0", ""), &registry.source("acme/sums"), None)
        .await;
    let artifact = published["artifact"].as_str().unwrap();
    let required = keys.trusting("acme", "").replace("when-known", "required");
    let put = async |key: &str, about: &str, predicate: &str| {
        let bundle = bundle(&keys, key, about, predicate).await;
        refer(&registry, "acme/sums", artifact, &bundle);
    };
    let place = Place::empty(&required);
    let nothing = digest(b"something else");
    for (key, about, predicate) in [
        ("mallory", artifact, SIGNED),
        ("acme", nothing.as_str(), SIGNED),
        ("acme", artifact, "https://spdx.dev/Document"),
    ] {
        put(key, about, predicate).await;
        let refused = refused_without_a_trace(&place, &["tool", "add", &source]).await;
        assert!(refused.contains("signed, but not by acme"), "{refused}");
    }
    put("acme", artifact, SIGNED).await;
    let place = Place::new(&required);
    let added = place.json(&["tool", "add", &source]).await;
    assert!(added["locked"]["key"].is_string(), "{added}");
}

#[tokio::test]
async fn a_bundle_beside_a_file_signs_it() {
    let keys = Keys::made(&["acme"]).await;
    let wasm = component("sums", "1.0.0", "");
    write(&keys.place, "sums.wasm", &wasm);
    sealed(&keys.place, &["tool", "sign", "sums.wasm", "--key", "acme.key"]).await;
    let signature = std::fs::read_to_string(keys.place.path().join("sums.wasm.sig")).unwrap();
    let bundle = json!({
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": {"publicKey": {"hint": "hint"}},
        "messageSignature": {"messageDigest": {"algorithm": "SHA2_256", "digest": "AAAA"}, "signature": signature},
    });
    let place = requiring(&keys, "");
    write(&place, "sums.wasm", &wasm);
    write(&place, "sums.wasm.sig", bundle.to_string().as_bytes());
    place.json(&["tool", "add", "sums.wasm"]).await;
}

#[tokio::test]
async fn a_key_vouches_only_for_what_it_is_trusted_for() {
    let registry = Registry::start().await;
    let keys = Keys::made(&["acme"]).await;
    for repository in ["acme/sums", "other/sums"] {
        keys.publish(
            &component("sums", "1.0.0", ""),
            &registry.source(repository),
            Some("acme"),
        )
        .await;
    }
    let config = keys
        .trusting("acme", &format!("sources = [\"oci://{}/acme/\"]", registry.host))
        .replace("when-known", "required");
    let place = Place::empty(&config);
    let elsewhere = refused_without_a_trace(&place, &["tool", "add", &registry.source("other/sums:1.0.0")]).await;
    assert!(elsewhere.contains("no key is trusted for"), "{elsewhere}");
    let place = Place::new(&config);
    place.json(&["tool", "add", &registry.source("acme/sums:1.0.0")]).await;
}

#[tokio::test]
async fn an_older_version_is_refused_however_well_it_is_signed() {
    let registry = Registry::start().await;
    let keys = Keys::made(&["acme"]).await;
    for version in ["1.0.0", "1.1.0"] {
        keys.publish(
            &component("sums", version, ""),
            &registry.source("acme/sums"),
            Some("acme"),
        )
        .await;
    }
    let place = Place::new(&keys.trusting("acme", ""));
    registry.move_tag("acme/sums:1.1.0", "acme/sums:stable");
    place.json(&["tool", "add", &registry.source("acme/sums:stable")]).await;
    // Whoever has the registry puts the old one back.
    let old = place.run(&["tool", "add", &registry.source("acme/sums:1.0.0")]).await;
    assert_eq!(old.status.code(), Some(1));
    assert!(said(&old).contains("older than 1.1.0"), "{}", said(&old));
    assert_eq!(place.json(&["tool", "show", "sums"]).await["version"], "1.1.0");
}

#[tokio::test]
async fn a_file_and_one_of_a_web_server_are_signed_beside_them() {
    let keys = Keys::made(&["acme", "mallory"]).await;
    let wasm = component("sums", "1.0.0", "");
    write(&keys.place, "sums.wasm", &wasm);
    let sign = async |key: &str| {
        sealed(
            &keys.place,
            &["tool", "sign", "sums.wasm", "--key", &format!("{key}.key")],
        )
        .await;
        std::fs::read(keys.place.path().join("sums.wasm.sig")).unwrap()
    };
    let (good, bad) = (sign("acme").await, sign("mallory").await);
    let required = keys.trusting("acme", "").replace("when-known", "required");

    let place = Place::empty(&required);
    write(&place, "sums.wasm", &wasm);
    let unsigned = refused_without_a_trace(&place, &["tool", "add", "sums.wasm"]).await;
    assert!(
        unsigned.contains("not signed") && unsigned.contains("`fumehood tool sign sums.wasm --key"),
        "{unsigned}"
    );
    let for_a_turn = refused_without_a_trace(&place, &["run", "hello", "--tool", "sums.wasm"]).await;
    assert!(for_a_turn.contains("not signed"), "{for_a_turn}");
    write(&place, "sums.wasm.sig", &bad);
    let other = refused_without_a_trace(&place, &["tool", "add", "sums.wasm"]).await;
    assert!(other.contains("not by acme"), "{other}");
    let place = Place::new(&required);
    write(&place, "sums.wasm", &wasm);
    write(&place, "sums.wasm.sig", &good);
    place.json(&["tool", "add", "sums.wasm"]).await;

    let files = Files::start(wasm).await;
    let place = Place::empty(&keys.trusting("acme", ""));
    let url = files.url("/sums.wasm");
    let unsigned = refused_without_a_trace(&place, &["tool", "add", &url]).await;
    assert!(unsigned.contains("not signed"), "{unsigned}");
    files.sign(good);
    let place = Place::new(&keys.trusting("acme", ""));
    let added = place.json(&["tool", "add", &url]).await;
    assert!(added["locked"]["key"].is_string(), "{added}");
}

/// A place that requires signatures and trusts one key.
fn requiring(keys: &Keys, more: &str) -> Place {
    Place::new(&keys.trusting("acme", more).replace("when-known", "required"))
}

#[tokio::test]
async fn where_signatures_are_required_an_upload_has_one_or_is_refused() {
    let keys = Keys::made(&["acme", "mallory"]).await;
    let (wasm, other) = (component("sums", "1.0.0", ""), component("sums", "1.0.1", ""));
    write(&keys.place, "sums.wasm", &wasm);
    let sign = async |key: &str| {
        let args = ["tool", "sign", "sums.wasm", "--key", &format!("{key}.key")];
        sealed(&keys.place, &args).await;
        std::fs::read_to_string(keys.place.path().join("sums.wasm.sig")).unwrap()
    };
    let (good, bad) = (sign("acme").await, sign("mallory").await);
    // Also a key that is trusted for one place alone.
    let place = requiring(&keys, "sources = [\"https://tools.acme.example/\"]");
    let host = place.serve().await;
    let upload = |wasm: &[u8], signature: Option<&str>| {
        let request = host.request(Method::POST, "/v1/tools");
        let request = request.header("content-type", "application/wasm").body(wasm.to_vec());
        match signature {
            Some(signature) => request.header("Fumehood-Signature", signature),
            None => request,
        }
    };
    let document = |more: Value| {
        let mut body = json!({"wasm": STANDARD.encode(&wasm)});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        host.request(Method::POST, "/v1/tools").json(&body)
    };
    let unsigned = refused(upload(&wasm, None), 403, "signature_required").await;
    let detail = unsigned["detail"].as_str().unwrap();
    assert!(
        detail.contains("acme") && detail.contains("Fumehood-Signature"),
        "{unsigned}"
    );
    refused(upload(&wasm, Some(&bad)), 403, "signature_required").await;
    refused(upload(&other, Some(&good)), 403, "signature_required").await;
    refused(upload(&wasm, Some("not base64")), 400, "invalid_header").await;
    refused(document(json!({})), 403, "signature_required").await;
    refused(document(json!({"signature": bad})), 403, "signature_required").await;
    let listed = host.get("/v1/tools").await;
    assert!(!listed.to_string().contains("\"sums\""), "something is left of it");

    expect_json(upload(&wasm, Some(&good)).send().await.unwrap()).await;
    let again = expect_json(document(json!({"signature": good})).send().await.unwrap()).await;
    assert_eq!(again["digest"], digest(&wasm));
}

#[tokio::test]
async fn commands_send_the_signatures_that_they_found_to_a_host_that_asks() {
    let registry = Registry::start().await;
    let keys = Keys::made(&["acme"]).await;
    let to = registry.source("acme/sums");
    for version in ["1.0.0", "1.1.0"] {
        keys.publish(&component("sums", version, ""), &to, Some("acme")).await;
    }
    let place = requiring(&keys, &format!("sources = [\"oci://{}/acme/\"]", registry.host));
    let host = place.serve().await;
    let run = async |args: &[&str]| {
        let output = place
            .command(args)
            .env("FUMEHOOD_URL", &host.base)
            .output()
            .await
            .unwrap();
        assert!(output.status.success(), "{args:?}: {}", said(&output));
    };
    run(&["tool", "add", &registry.source("acme/sums:1.0.0")]).await;
    run(&["tool", "update", "sums", "--yes"]).await;
    assert_eq!(host.get("/v1/tools/sums").await["version"], "1.1.0");
    drop(registry);
    // From the cache, where the signature is kept as well.
    run(&["tool", "add", "--locked"]).await;
    let kept = place.path().join("cache/fumehood/components");
    for file in std::fs::read_dir(kept).unwrap().map(Result::unwrap) {
        if file.file_name().to_str().unwrap().ends_with(".signature.json") {
            std::fs::remove_file(file.path()).unwrap();
        }
    }
    let bare = place
        .command(&["tool", "add", "--locked"])
        .env("FUMEHOOD_URL", &host.base)
        .output()
        .await;
    let bare = bare.unwrap();
    assert!(said(&bare).contains("can't be reached"), "{}", said(&bare));
}

#[tokio::test]
async fn what_was_signed_does_not_become_unsigned_by_itself() {
    let registry = Registry::start().await;
    let keys = Keys::made(&["acme"]).await;
    let to = registry.source("acme/sums");
    keys.publish(&component("sums", "1.0.0", ""), &to, Some("acme")).await;
    keys.publish(&component("sums", "1.1.0", ""), &to, None).await;
    let place = Place::new(&keys.trusting("acme", ""));
    place.json(&["tool", "add", &registry.source("acme/sums:1.0.0")]).await;
    // Also where the key is trusted no more.
    let again = Place::new("");
    std::fs::copy(place.path().join("fumehood.lock"), again.path().join("fumehood.lock")).unwrap();
    let lost = again.run(&["tool", "add", &registry.source("acme/sums:1.1.0")]).await;
    assert_eq!(lost.status.code(), Some(1));
    assert!(said(&lost).contains("was when it was locked"), "{}", said(&lost));
}

#[tokio::test]
async fn a_pair_of_keys_is_made_once_sealed_and_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let keys = Keys::made(&["acme"]).await;
    let file = keys.place.path().join("acme.key");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(
        text.starts_with("-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----"),
        "{text}"
    );
    let again = keys
        .place
        .command(&["tool", "key", "acme"])
        .env("FUMEHOOD_KEY_PASSPHRASE", "x")
        .output()
        .await
        .unwrap();
    assert!(said(&again).contains("there already"), "{}", said(&again));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
    write(&keys.place, "x.wasm", b"x");
    for (passphrase, says) in [
        (Some("wrong"), "passphrase is not the one"),
        (None, "FUMEHOOD_KEY_PASSPHRASE"),
    ] {
        let mut command = keys.place.command(&["tool", "sign", "x.wasm", "--key", "acme.key"]);
        if let Some(passphrase) = passphrase {
            command.env("FUMEHOOD_KEY_PASSPHRASE", passphrase);
        }
        let output = command.output().await.unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(said(&output).contains(says), "{}", said(&output));
    }
    assert!(!keys.place.path().join("x.wasm.sig").exists());
}

#[tokio::test]
async fn what_the_configuration_names_is_pinned_or_signed_where_signatures_are_required() {
    let wasm = component("sums", "1.0.0", "");
    let config = "[tools]\nsignatures = \"required\"\n[tool.sums]\nsource = \"sums.wasm\"\n";
    let neither = Place::compiled(config);
    write(&neither, "sums.wasm", &wasm);
    let refused = neither.run(&["config", "check"]).await;
    assert_eq!(refused.status.code(), Some(2), "{}", said(&refused));
    assert!(said(&refused).contains("signatures are required"), "{}", said(&refused));
    let pinned = Place::compiled(&format!("{config}digest = \"{}\"\n", digest(&wasm)));
    write(&pinned, "sums.wasm", &wasm);
    let checked = pinned.run(&["config", "check"]).await;
    assert!(checked.status.success(), "{}", said(&checked));
}

#[tokio::test]
async fn keys_that_are_none_and_settings_that_would_do_nothing_stop_the_start() {
    for (section, says) in [
        ("[tools]\nsignatures = \"maybe\"", "maybe"),
        ("[tools.trusted_keys.acme]\nkey = \"acme.pub\"", "acme.pub"),
        ("[tools.trusted_keys.acme]\nkey = \"-----BEGIN RSA-----\"", "public key"),
        (
            "[tools.trusted_keys.acme]\nkey = \"x\"\nsources = []",
            "trusts it for nothing",
        ),
        (
            "[tools.trusted_keys.acme]\nkey = \"x\"\nsources = [\"ghcr.io\"]",
            "is no place",
        ),
        ("[tools]\nkeys = []", "keys"),
    ] {
        let place = Place::compiled(section);
        let output = place.run(&["config", "check"]).await;
        assert_eq!(output.status.code(), Some(2), "{section}: {}", said(&output));
        assert!(said(&output).contains(says), "{section}: {}", said(&output));
    }
}

#[tokio::test]
async fn what_the_configuration_names_at_a_registry_is_signed_when_it_is_locked_and_at_each_start() {
    let registry = Registry::start().await;
    let keys = Keys::made(&["acme", "mallory"]).await;
    let to = registry.source("acme/sums");
    keys.publish(&component("sums", "1.0.0", ""), &to, None).await;
    keys.publish(&component("sums", "1.1.0", ""), &to, Some("acme")).await;
    let named = |key: &str, version: &str| {
        let source = registry.source(&format!("acme/sums:{version}"));
        keys.trusting(key, &format!("[tool.sums]\nsource = \"{source}\""))
    };
    let unsigned = Place::compiled(&named("acme", "1.0.0"));
    let refused = unsigned.run(&["tool", "lock"]).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(said(&refused).contains("not signed"), "{}", said(&refused));
    assert!(!unsigned.path().join("fumehood.lock").exists());

    let signed = Place::compiled(&named("acme", "1.1.0"));
    let locked = sealed(&signed, &["tool", "lock"]).await;
    assert!(locked["components"][0]["key"].is_string(), "{locked}");
    assert!(signed.run(&["config", "check"]).await.status.success());
    // A key that is taken back takes back what only it signed.
    std::fs::write(signed.path().join("fumehood.toml"), named("mallory", "1.1.0")).unwrap();
    let back = signed.run(&["config", "check"]).await;
    assert_eq!(back.status.code(), Some(2));
    assert!(said(&back).contains("not by mallory"), "{}", said(&back));
}
