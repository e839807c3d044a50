//! What an author of tools types: from nothing to a component that is called.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail by panicking"
)]

use fumehood_tests::{PATIENCE, Place, binary, hand_written, root, said, signal};
use serde_json::{Value, json};
use std::{path::Path, process::Stdio, time::Duration};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStderr, ChildStdout, Command},
};

/// How long a build in Rust may take before a test gives up: with every crate compiled anew, on a machine that does other work.
const BUILD: Duration = Duration::from_secs(12 * 60);

/// Whether the compiler on the PATH builds components. The guests of other tests may come from another one.
fn compiles_components() -> bool {
    let output = std::process::Command::new("rustc")
        .args(["--print", "sysroot"])
        .output();
    let sysroot = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    sysroot.is_ok_and(|sysroot| Path::new(&sysroot).join("lib/rustlib/wasm32-wasip2/lib").is_dir())
}

/// Sees to it that a project builds with what this workspace builds with, without a network.
fn with_the_crates_of_this_workspace(command: &mut Command) -> &mut Command {
    command
        .env("CARGO_TARGET_DIR", root().join("target/author"))
        .env("CARGO_NET_OFFLINE", "true")
        .env_remove("RUSTFLAGS")
}

#[tokio::test]
async fn a_new_tool_in_rust_builds_says_what_it_is_and_is_called() {
    if !compiles_components() {
        eprintln!("the compiler on the PATH has no wasm32-wasip2: nothing is tested");
        return;
    }
    let place = Place::empty("");
    let sdk = root().join("sdk/rust");
    let made = place
        .json(&["tool", "new", "tide-tables", "--sdk", sdk.to_str().unwrap()])
        .await;
    assert_eq!(
        (&made["path"], &made["language"]),
        (&json!("tide-tables"), &json!("rust"))
    );
    let project = place.path().join("tide-tables");
    std::fs::copy(root().join("Cargo.lock"), project.join("Cargo.lock")).unwrap();

    let mut command = place.command(&["--json", "tool", "build", "tide-tables"]);
    let build = with_the_crates_of_this_workspace(&mut command).output();
    let built = tokio::time::timeout(BUILD, build)
        .await
        .expect("the build did not end")
        .unwrap();
    assert!(built.status.success(), "{}", said(&built));
    let built: Value = serde_json::from_slice(&built.stdout).unwrap();
    let component = project.join("tide-tables.wasm");
    let size = std::fs::metadata(&component).unwrap().len();
    assert_eq!((&built["name"], &built["size"]), (&json!("tide-tables"), &json!(size)));
    assert_eq!(built["tools"][0]["name"], "forecast");
    assert!(size < 500_000, "{size}");
    assert!(!built["requests"].as_array().unwrap().is_empty());

    let mut command = place.command(&["--json", "tool", "test", "tide-tables", "--failing-outside"]);
    let test = with_the_crates_of_this_workspace(&mut command).output();
    let tested = tokio::time::timeout(BUILD, test)
        .await
        .expect("the tests did not end")
        .unwrap();
    assert!(tested.status.success(), "{}", said(&tested));
    let tested: Value = serde_json::from_slice(&tested.stdout).unwrap();
    assert_eq!((&tested["passed"], &tested["failed"]), (&json!(4), &json!(0)));

    // Alone, it carries its manifest.
    let alone = place.path().join("alone.wasm");
    std::fs::copy(&component, &alone).unwrap();
    let checked = place.json(&["tool", "check", "alone.wasm"]).await;
    assert_eq!(
        (&checked["name"], &checked["manifest"]),
        (&built["name"], &built["manifest"])
    );

    let blank = place
        .run(&["tool", "call", "alone.wasm", "forecast", r#"{"city": " "}"#])
        .await;
    assert_eq!(blank.status.code(), Some(1));
    assert!(said(&blank).contains("`city` is blank"), "{}", said(&blank));
    let call = ["tool", "call", "alone.wasm", "forecast", r#"{"city": "Bergen"}"#];
    let denied = place.run(&[&["--json"], &call[..]].concat()).await;
    assert!(said(&denied).contains(r#""status":"denied""#), "{}", said(&denied));
    let granted = place.run(&[&["--json"], &call[..], &["--yes"]].concat()).await;
    assert!(
        !said(&granted).contains(r#""status":"denied""#),
        "nobody is there, but it may ask: {}",
        said(&granted)
    );
}

#[tokio::test]
async fn a_tool_in_rust_is_what_its_package_says_where_its_manifest_says_nothing() {
    if !compiles_components() {
        eprintln!("the compiler on the PATH has no wasm32-wasip2: nothing is tested");
        return;
    }
    let place = Place::empty("");
    let sdk = root().join("sdk/rust");
    place
        .json(&["tool", "new", "harbours", "--sdk", sdk.to_str().unwrap()])
        .await;
    let project = place.path().join("harbours");
    std::fs::copy(root().join("Cargo.lock"), project.join("Cargo.lock")).unwrap();
    let cargo = std::fs::read_to_string(project.join("Cargo.toml")).unwrap();
    let cargo = cargo.replacen("version = \"0.1.0\"", "version = \"3.1.4\"", 1);
    std::fs::write(project.join("Cargo.toml"), &cargo).unwrap();
    let asks = "[limits]\ntime = \"10s\"\n";
    std::fs::write(project.join("tool.toml"), asks).unwrap();

    let mut command = place.command(&["--json", "tool", "build", "harbours"]);
    let build = with_the_crates_of_this_workspace(&mut command).output();
    let built = tokio::time::timeout(BUILD, build)
        .await
        .expect("the build did not end")
        .unwrap();
    assert!(built.status.success(), "{}", said(&built));
    let built: Value = serde_json::from_slice(&built.stdout).unwrap();
    let who = |about: &Value| json!([about["name"], about["version"], about["description"]]);
    assert_eq!(who(&built), json!(["harbours", "3.1.4", "Forecasts for cities."]));

    // What cargo made carries the same, without the folder.
    let by_cargo = root().join("target/author/wasm32-wasip2/release/harbours.wasm");
    let alone = async || {
        std::fs::copy(&by_cargo, place.path().join("alone.wasm")).unwrap();
        place.json(&["tool", "check", "alone.wasm"]).await
    };
    let checked = alone().await;
    assert_eq!((who(&checked), &checked["requests"]), (who(&built), &built["requests"]));
    // Beside its folder's manifest, the finished one is added as what it is.
    let added = place.json(&["tool", "check", "harbours"]).await;
    assert_eq!(who(&added), who(&built));
    let differs = added["findings"].as_array().unwrap().iter();
    assert!(
        !differs.clone().any(|finding| finding["id"] == "manifest-differs"),
        "{added}"
    );

    // A save of the manifest alone is compiled, too.
    std::fs::write(project.join("tool.toml"), format!("version = \"4.0.0\"\n{asks}")).unwrap();
    let plain = async || {
        let mut cargo = Command::new("cargo");
        cargo
            .args(["build", "--release", "--target", "wasm32-wasip2"])
            .current_dir(&project);
        let build = with_the_crates_of_this_workspace(&mut cargo).output();
        tokio::time::timeout(BUILD, build)
            .await
            .expect("it did not end")
            .unwrap()
    };
    let output = plain().await;
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(
        who(&alone().await),
        json!(["harbours", "4.0.0", "Forecasts for cities."])
    );

    // A package may have a name that no component has; its manifest then has to give one.
    let renamed = cargo.replacen("name = \"harbours\"", "name = \"har_bours\"", 1);
    std::fs::write(project.join("Cargo.toml"), renamed).unwrap();
    let refused = place.run(&["tool", "build", "harbours"]).await;
    assert!(
        !refused.status.success() && said(&refused).contains("write `name = \"har-bours\"`"),
        "{}",
        said(&refused)
    );
    let refused = plain().await;
    assert!(
        !refused.status.success() && said(&refused).contains("`har_bours` can't be that of a component"),
        "{}",
        said(&refused)
    );
}

#[tokio::test]
async fn a_name_or_a_place_that_can_not_be_taken_is_refused_and_nothing_is_made() {
    let place = Place::empty("");
    for name in ["Weather", "2day", "a_b", "", "../x"] {
        let refused = place.run(&["tool", "new", name]).await;
        assert_eq!(refused.status.code(), Some(2), "{name}: {}", said(&refused));
        assert!(said(&refused).contains("lower-case"), "{}", said(&refused));
    }
    std::fs::create_dir(place.path().join("taken")).unwrap();
    std::fs::write(place.path().join("taken/mine"), "mine").unwrap();
    for arguments in [&["taken"][..], &["serde"], &["tides", "--sdk", "taken"]] {
        let refused = place.run(&[&["tool", "new"], arguments].concat()).await;
        assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
    }
    let mut left: Vec<String> = std::fs::read_dir(place.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    left.sort();
    assert_eq!(left, ["fumehood.toml", "taken"]);
}

#[tokio::test]
async fn a_folder_that_can_not_be_built_says_why() {
    let place = Place::empty("");
    let refused = async |files: &[(&str, &str)]| {
        let dir = place.path().join("tool");
        std::fs::create_dir_all(&dir).unwrap();
        for (name, content) in files {
            std::fs::write(dir.join(name), content).unwrap();
        }
        let refused = place.run(&["tool", "build", "tool"]).await;
        assert!(!refused.status.success());
        std::fs::remove_dir_all(&dir).unwrap();
        said(&refused)
    };
    let manifest = ("tool.toml", "name = \"it\"\nversion = \"1\"\n");
    let source = ("it.c", "");
    let cases: [(&[(&str, &str)], &str); 6] = [
        (&[], "fumehood tool new NAME"),
        (&[source], "tool.toml is not there"),
        (&[source, ("tool.toml", "name = \"it\"\nversion = 1\n")], "line 2"),
        (&[source, manifest], "build.sh"),
        (&[source, manifest, ("build.sh", "echo broken; exit 3")], "broken"),
        (
            &[source, manifest, ("build.sh", "echo '#' > it.wasm")],
            "not WebAssembly",
        ),
    ];
    for (files, words) in cases {
        let said = refused(files).await;
        assert!(said.contains(words), "{words}: {said}");
    }
}

/// A folder whose component is made in no time, by its own script.
fn quick_project(place: &Place) -> std::path::PathBuf {
    let dir = place.path().join("sums");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("made"), hand_written("plain")).unwrap();
    std::fs::write(dir.join("sums.c"), "").unwrap();
    std::fs::write(dir.join("build.sh"), "cp made sums.wasm\n").unwrap();
    let manifest = "name = \"sums\"\nversion = \"0.1.0\"\ndescription = \"Sums.\"\n";
    std::fs::write(dir.join("tool.toml"), manifest).unwrap();
    dir
}

#[tokio::test]
async fn a_component_of_an_earlier_build_is_not_taken_for_that_of_this_one() {
    let place = Place::empty("");
    let dir = quick_project(&place);
    let component = dir.join("sums.wasm");
    let built = place.json(&["tool", "build", "sums"]).await;
    assert_eq!(built["name"], "sums");
    let before = std::fs::read(&component).unwrap();

    std::fs::write(dir.join("build.sh"), "cp made elsewhere.wasm\n").unwrap();
    let refused = place.run(&["tool", "build", "sums"]).await;
    let told = said(&refused);
    assert!(
        !refused.status.success() && told.contains("of an earlier build") && told.contains("COMPONENT"),
        "{told}"
    );
    assert_eq!(std::fs::read(&component).unwrap(), before, "it stays as it is");
    std::fs::remove_file(&component).unwrap();
    let refused = place.run(&["tool", "build", "sums"]).await;
    assert!(said(&refused).contains("left no"), "{}", said(&refused));
}

#[tokio::test]
async fn a_build_that_writes_where_it_is_told_leaves_the_component_alone_until_it_is_finished() {
    let place = Place::empty("");
    let dir = quick_project(&place);
    let component = dir.join("sums.wasm");
    std::fs::write(&component, "of an earlier build").unwrap();
    let build = "head -c 20 made > \"$COMPONENT\"\ncp sums.wasm meanwhile\ncp made \"$COMPONENT\"\n";
    std::fs::write(dir.join("build.sh"), build).unwrap();
    assert_eq!(place.json(&["tool", "build", "sums"]).await["name"], "sums");
    assert_eq!(std::fs::read(dir.join("meanwhile")).unwrap(), b"of an earlier build");
    assert!(std::fs::read(&component).unwrap().starts_with(b"\0asm"));
    let names = || std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name());
    let left: Vec<_> = names()
        .filter(|name| name.to_string_lossy().contains("partial"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

/// Has programs of a folder before those of the machine.
fn with_programs(command: &mut Command, programs: &Path) {
    let path = std::env::var_os("PATH").unwrap();
    let all = [programs.to_owned()].into_iter().chain(std::env::split_paths(&path));
    command.env("PATH", std::env::join_paths(all).unwrap());
}

fn program(path: &Path, script: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, format!("#!/bin/sh\n{script}")).unwrap();
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
}

#[tokio::test]
async fn what_could_not_be_installed_is_installed_with_the_next_build_and_then_not_again() {
    let place = Place::empty("");
    let dir = quick_project(&place);
    let (programs, log) = (place.path().join("programs"), place.path().join("log"));
    let fails_once = |name: &str, then: &str| {
        let (log, failed) = (log.display(), place.path().join(format!("{name}-failed")));
        let failed = failed.display();
        format!(
            "echo {name} >> {log}\nif [ ! -e {failed} ]; then touch {failed}; echo no network; exit 1; fi\n{then}\n"
        )
    };
    // As npm does: the folder first, and this file last.
    let npm = fails_once("npm", "echo '{}' > node_modules/.package-lock.json");
    program(&programs.join("npm"), &format!("mkdir -p node_modules\n{npm}"));
    program(&place.path().join("pip"), &fails_once("pip", ""));
    let pip = place.path().join("pip");
    program(
        &programs.join("python3"),
        &format!("mkdir -p .venv/bin\ncp {} .venv/bin/pip\n", pip.display()),
    );
    std::fs::write(dir.join("package-lock.json"), "{}").unwrap();
    std::fs::write(dir.join("requirements.txt"), "a==1\n").unwrap();
    let build = async || {
        let mut command = place.command(&["tool", "build", "sums"]);
        with_programs(&mut command, &programs);
        let output = command.env_remove("CC").output().await.unwrap();
        (output.status.success(), said(&output))
    };
    for failing in ["npm ci", "pip install"] {
        let (built, told) = build().await;
        assert!(
            !built && told.contains("no network") && told.contains(failing),
            "{told}"
        );
    }
    for _ in 0..2 {
        let (built, told) = build().await;
        assert!(built, "{told}");
    }
    let log = || std::fs::read_to_string(&log).unwrap();
    assert_eq!(log().lines().collect::<Vec<_>>(), ["npm", "npm", "pip", "pip"]);
    std::fs::write(dir.join("requirements.txt"), "a==2\n").unwrap();
    assert!(build().await.0);
    assert_eq!(log().lines().count(), 5, "other pins are installed");
    // The lock file is newer than what was installed by it.
    let installed = std::fs::File::options()
        .write(true)
        .open(dir.join("node_modules/.package-lock.json"))
        .unwrap();
    let before = std::fs::metadata(dir.join("package-lock.json"))
        .unwrap()
        .modified()
        .unwrap();
    installed.set_modified(before - Duration::from_secs(1)).unwrap();
    for _ in 0..2 {
        assert!(build().await.0);
    }
    let log = log();
    assert_eq!(
        (log.lines().count(), log.lines().last()),
        (6, Some("npm")),
        "once: {log}"
    );
}

#[tokio::test]
async fn tests_run_with_the_programs_that_were_installed_in_the_folder() {
    let place = Place::empty("");
    let dir = quick_project(&place);
    std::fs::write(dir.join("go.mod"), "module sums\n").unwrap();
    program(&dir.join(".venv/bin/go"), "echo the go of the folder: $1\n");
    let mut dev = Dev::begin(place.command(&["tool", "dev", "sums"]));
    let told = dev.waits().await;
    assert!(told.contains("the go of the folder: test"), "{told}");
}

/// `tool dev` at work.
struct Dev {
    process: Child,
    out: Lines<BufReader<ChildStdout>>,
    errors: Lines<BufReader<ChildStderr>>,
}

impl Dev {
    fn begin(mut command: Command) -> Self {
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        Self {
            out: BufReader::new(process.stdout.take().unwrap()).lines(),
            errors: BufReader::new(process.stderr.take().unwrap()).lines(),
            process,
        }
    }

    /// Waits for a round's end.
    async fn waits(&mut self) -> String {
        let waiting = async {
            let mut told = String::new();
            while let Some(line) = self.errors.next_line().await.unwrap() {
                told.push_str(&line);
                told.push('\n');
                if line.contains("waiting for a save") {
                    return told;
                }
            }
            panic!("it ended: {told}");
        };
        tokio::time::timeout(PATIENCE, waiting).await.expect("it went silent")
    }

    async fn value(&mut self) -> Value {
        let line = tokio::time::timeout(PATIENCE, self.out.next_line())
            .await
            .expect("it went silent");
        serde_json::from_str(&line.unwrap().expect("it ended")).unwrap()
    }
}

#[tokio::test]
async fn dev_builds_and_calls_after_each_save_tells_what_fails_and_ends_at_ctrl_c() {
    let place = Place::empty("");
    let dir = quick_project(&place);
    let mut dev = Dev::begin(place.command(&["--json", "tool", "dev", "sums", "--", "add", r#"{"a": 2, "b": 3}"#]));
    assert_eq!(dev.value().await["name"], "sums");
    let called = dev.value().await;
    assert!(called["status"] == "ok" && called.to_string().contains('5'), "{called}");
    dev.waits().await;

    std::fs::write(dir.join("build.sh"), "echo not today\nexit 1\n").unwrap();
    let told = dev.waits().await;
    assert!(
        told.contains("not today") && told.contains("`sh build.sh` failed"),
        "{told}"
    );

    std::fs::write(dir.join("build.sh"), "cp made sums.wasm # again\n").unwrap();
    assert_eq!(dev.value().await["name"], "sums");
    assert_eq!(dev.value().await["status"], "ok");
    dev.waits().await;

    signal(dev.process.id().unwrap(), "-INT").await;
    let ended = tokio::time::timeout(PATIENCE, dev.process.wait())
        .await
        .expect("it did not end");
    assert_eq!(ended.unwrap().code(), Some(0));
}

#[tokio::test]
async fn dev_runs_the_tests_where_no_call_is_given_and_stops_a_build_at_ctrl_c() {
    let place = Place::empty("");
    let dir = quick_project(&place);
    std::fs::write(dir.join("test.sh"), "echo tested\n").unwrap();
    let mut dev = Dev::begin(place.command(&["tool", "dev", "sums"]));
    assert!(dev.waits().await.contains("tested"));
    std::fs::write(dir.join("build.sh"), "echo building\nexec sleep 1000\n").unwrap();
    let building = async { while dev.errors.next_line().await.unwrap().unwrap() != "building" {} };
    tokio::time::timeout(PATIENCE, building)
        .await
        .expect("it does not build");
    signal(dev.process.id().unwrap(), "-INT").await;
    let ended = tokio::time::timeout(PATIENCE, dev.process.wait())
        .await
        .expect("it did not end");
    assert_eq!(ended.unwrap().code(), Some(0));
}

#[tokio::test]
async fn dev_tests_the_component_also_where_the_tests_of_its_language_cannot_start() {
    let place = Place::empty("");
    let dir = quick_project(&place);
    std::fs::create_dir(dir.join("tests")).unwrap();
    let test =
        "tool = \"add\"\n[[test]]\nname = \"two and three\"\narguments = { a = 2, b = 3 }\nexpect.contains = [\"5\"]\n";
    std::fs::write(dir.join("tests/sums.toml"), test).unwrap();
    let mut dev = Dev::begin(place.command(&["tool", "dev", "sums"]));
    let told = dev.waits().await;
    assert!(told.contains("test.sh, which is not there"), "{told}");
    let passed = async {
        while let Some(line) = dev.out.next_line().await.unwrap() {
            if line.contains("1 passed, 0 failed") {
                return;
            }
        }
        panic!("it ended");
    };
    tokio::time::timeout(PATIENCE, passed).await.expect("it was not tested");
}

#[tokio::test]
async fn dev_has_the_component_of_tests_in_rust_run_by_itself_unless_another_is_named() {
    let place = Place::empty("");
    let dir = quick_project(&place).canonicalize().unwrap();
    std::fs::write(dir.join("Cargo.toml"), "").unwrap();
    std::fs::rename(dir.join("made"), dir.join("made.wasm")).unwrap();
    let artifact = json!({
        "reason": "compiler-artifact", "manifest_path": dir.join("Cargo.toml"), "filenames": [dir.join("made.wasm")],
    });
    let programs = place.path().join("programs");
    let cargo = format!("case \"$1\" in build) echo '{artifact}' ;; test) echo \"run by $FUMEHOOD_BIN.\" ;; esac\n");
    program(&programs.join("cargo"), &cargo);
    let own = binary().canonicalize().unwrap();
    for (named, by) in [
        (None, own.display().to_string()),
        (Some("/another/one"), "/another/one".to_owned()),
    ] {
        let mut command = place.command(&["tool", "dev", "sums"]);
        with_programs(&mut command, &programs);
        command.envs(named.map(|named| ("FUMEHOOD_BIN", named)));
        // It has what it builds with.
        let mut dev = Dev::begin({
            command.env("RUSTFLAGS", "--sysroot=here");
            command
        });
        let told = dev.waits().await;
        assert!(told.contains(&format!("run by {by}.")), "{told}");
    }
}

#[tokio::test]
async fn the_steps_that_a_new_tool_is_told_are_those_of_its_readme() {
    let place = Place::empty("");
    for lang in ["rust", "js", "python", "c", "go"] {
        let name = format!("{lang}-tool");
        let made = place.run(&["tool", "new", &name, "--lang", lang]).await;
        assert!(made.status.success(), "{}", said(&made));
        let text = String::from_utf8_lossy(&made.stdout).into_owned();
        let (files, next) = text.split_once("\nnext\n").unwrap_or_else(|| panic!("{text}"));
        // What nobody changes is told as one.
        assert!(!files.contains("wit/deps/cli"), "{files}");
        assert_eq!(files.contains("/wit/deps/ ("), lang != "rust", "{files}");
        let steps: Vec<&str> = next.lines().map_while(|line| line.strip_prefix("  ")).collect();
        assert_eq!(steps[0], format!("cd {name}"));
        let readme = std::fs::read_to_string(place.path().join(&name).join("README.md")).unwrap();
        let told: Vec<&str> = readme.lines().skip_while(|line| *line != "```sh").skip(1).collect();
        for (step, line) in steps[1..].iter().zip(told) {
            assert!(
                line.split_once(" #")
                    .is_some_and(|(command, _)| command.trim() == *step),
                "{lang}: {step}: {line}"
            );
        }
        assert!(steps.contains(&"fumehood tool test"), "{lang}: {steps:?}");
    }
}
