//! A data directory as a host leaves it after its first start, made once per binary and copied for each test: compiling
//! the same components in every test would be most of what the tests do.

use crate::{Place, binary, guest};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::json;
use std::{
    fs::{self, File},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::{Path, PathBuf},
};

/// Fills the place's data directory.
pub(crate) fn copy_into(place: &Place) {
    copy(&template(), &place.data());
}

/// Fills the place's data directory with nothing but what is compiled, and the key it is compiled under.
pub(crate) fn copy_compiled_into(place: &Place) {
    let template = template();
    copy(&template.join("compiled"), &place.data().join("compiled"));
    fs::copy(template.join("master.key"), place.data().join("master.key")).unwrap();
    fs::set_permissions(place.data(), fs::metadata(&template).unwrap().permissions()).unwrap();
}

/// The template for the binary and guests there are now. Whoever comes first makes it, the others wait.
fn template() -> PathBuf {
    let mut state = DefaultHasher::new();
    fs::read(binary()).unwrap().hash(&mut state);
    guest("hostile").hash(&mut state);
    let cache = binary().with_file_name("fumehood-tests");
    fs::create_dir_all(&cache).unwrap();
    let template = cache.join(format!("{:016x}", state.finish()));
    let lock = File::create(cache.join("lock")).unwrap();
    lock.lock().unwrap();
    if !template.exists() {
        for stale in fs::read_dir(&cache)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.is_dir())
        {
            fs::remove_dir_all(stale).unwrap();
        }
        let made = std::thread::spawn(|| tokio::runtime::Runtime::new().unwrap().block_on(first_start()))
            .join()
            .unwrap();
        copy(&made.data(), &template.with_extension("new"));
        fs::rename(template.with_extension("new"), &template).unwrap();
    }
    template
}

/// Starts a host once, and has it compile the hostile guest, too.
async fn first_start() -> Place {
    let place = Place::empty("");
    let host = place.serve().await;
    host.post(
        "/v1/tools",
        json!({"wasm": STANDARD.encode(guest("hostile")), "grant": "none"}),
    )
    .await;
    let gone = host
        .request(reqwest::Method::DELETE, "/v1/tools/hostile")
        .send()
        .await
        .unwrap();
    assert!(gone.status().is_success());
    host.stop().await;
    place
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
    fs::set_permissions(to, fs::metadata(from).unwrap().permissions()).unwrap();
}
