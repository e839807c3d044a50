//! Standard interfaces beside WASI 0.2 that components of other hosts import: settings and log messages.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use fumehood_core::content::plain_text;
use fumehood_policy::authority::Authority;
use fumehood_sandbox::{
    CallReport, HostCall, Interface, LoadError, Outcome, Witness,
    ports::{Channel, Observer, Ports},
};
use std::sync::{Arc, Mutex};
use support::{authority, call, load, sandbox};

/// Settings that are asked for by the names in [`Authority::env`], and one that is not granted.
fn env() -> Ports {
    Ports {
        env: Arc::new([("GREETING".into(), "hello".into()), ("API_KEY".into(), "hidden".into())]),
        ..Ports::denied()
    }
}

fn granted(names: &[&str]) -> Authority {
    Authority {
        env: names.iter().map(|name| name.parse().unwrap()).collect(),
        ..authority()
    }
}

/// `setting: func() -> result<option<string>, error>`, which asks for one key, and `settings` for all, of this version of the interface.
fn configured(version: &str, key: &str) -> Vec<u8> {
    let length = key.len();
    wat::parse_str(format!(
        r#"(component
  (import "wasi:config/store@{version}" (instance $store
    (type $error' (variant (case "upstream" string) (case "io" string)))
    (export "error" (type $error (eq $error')))
    (export "get" (func (param "key" string) (result (result (option string) (error $error)))))
    (export "get-all" (func (result (result (list (tuple string string)) (error $error)))))))
  (core module $libc
    (memory (export "memory") 1) (data (i32.const 8) "{key}")
    (global $heap (mut i32) (i32.const 1024))
    (func (export "realloc") (param i32 i32 i32) (param $size i32) (result i32)
      (global.get $heap)
      (global.set $heap (i32.and (i32.add (i32.add (global.get $heap) (local.get $size)) (i32.const 7)) (i32.const -8)))))
  (core instance $libc (instantiate $libc))
  (alias core export $libc "memory" (core memory $memory))
  (alias core export $libc "realloc" (core func $realloc))
  (core func $get (canon lower (func $store "get") (memory $memory) (realloc $realloc)))
  (core func $all (canon lower (func $store "get-all") (memory $memory) (realloc $realloc)))
  (core module $m
    (import "h" "get" (func $get (param i32 i32 i32))) (import "h" "all" (func $all (param i32)))
    (func (export "setting") (result i32) (call $get (i32.const 8) (i32.const {length}) (i32.const 256)) (i32.const 256))
    (func (export "settings") (result i32) (call $all (i32.const 256)) (i32.const 256)))
  (core instance $i (instantiate $m (with "h" (instance (export "get" (func $get)) (export "all" (func $all))))))
  (alias export $store "error" (type $e))
  (export $error "error" (type $e))
  (func (export "setting") (result (result (option string) (error $error)))
    (canon lift (core func $i "setting") (memory $memory) (realloc $realloc)))
  (func (export "settings") (result (result (list (tuple string string)) (error $error)))
    (canon lift (core func $i "settings") (memory $memory) (realloc $realloc))))"#
    ))
    .unwrap()
}

async fn asked(wasm: Vec<u8>, tool: &str, authority: Authority) -> CallReport {
    let sandbox = sandbox();
    let component = load(&sandbox, wasm).await;
    sandbox
        .call(&component, call(tool, "{}"), Arc::new(authority), env())
        .await
}

fn said(report: &CallReport) -> String {
    plain_text(&report.result.as_ref().unwrap().content)
}

#[tokio::test]
async fn settings_are_the_granted_variables_in_each_version_of_the_interface() {
    for version in ["0.2.0-draft", "0.2.0-rc.1"] {
        let greeting = configured(version, "GREETING");
        let report = asked(greeting.clone(), "setting", granted(&["GREETING"])).await;
        assert_eq!(said(&report), "hello", "{version}");
        assert!(report.denials.is_empty(), "{:?}", report.denials);
        let all = asked(greeting, "settings", granted(&["GREETING", "ABSENT"])).await;
        assert_eq!(said(&all), r#"[["GREETING","hello"]]"#, "{version}");
    }
}

#[tokio::test]
async fn a_setting_that_is_not_granted_is_not_there_and_the_report_says_what_it_lacks() {
    let report = asked(configured("0.2.0-draft", "API_KEY"), "setting", granted(&["GREETING"])).await;
    assert_eq!(said(&report), "null");
    let denials: Vec<_> = report.denials.iter().map(|denial| denial.reason.as_str()).collect();
    assert_eq!(denials.len(), 1, "{denials:?}");
    assert!(
        denials[0].contains("API_KEY") && denials[0].contains("`[env]`"),
        "{denials:?}"
    );
    let unspeakable = asked(
        configured("0.2.0-draft", "no such name"),
        "setting",
        granted(&["GREETING"]),
    )
    .await;
    assert_eq!(said(&unspeakable), "null");
    assert!(
        !unspeakable.denials[0].reason.contains("no such name"),
        "{:?}",
        unspeakable.denials
    );
}

#[tokio::test]
async fn a_version_of_the_interface_that_this_host_has_not_is_refused_by_name() {
    let wasm = configured("0.2.0-draft9", "GREETING");
    let digest = fumehood_core::digest::Digest::of(&wasm);
    let refused = sandbox().load(wasm, digest).await.unwrap_err();
    assert!(matches!(refused, LoadError::ImportMismatch(_)), "{refused}");
    assert!(
        refused.to_string().contains("wasi:config/store@0.2.0-draft9"),
        "{refused}"
    );
}

/// `note: func()`, which logs.
const NOTING: &str = r#"(component
  (import "wasi:logging/logging@0.1.0-draft" (instance $logging
    (type $level' (enum "trace" "debug" "info" "warn" "error" "critical"))
    (export "level" (type $level (eq $level')))
    (export "log" (func (param "level" $level) (param "context" string) (param "message" string)))))
  (core module $libc (memory (export "memory") 1) (data (i32.const 8) "tideslow water"))
  (core instance $libc (instantiate $libc))
  (core func $log (canon lower (func $logging "log") (memory (core memory $libc "memory"))))
  (core module $m (import "h" "log" (func $log (param i32 i32 i32 i32 i32)))
    (func (export "note")
      (call $log (i32.const 3) (i32.const 8) (i32.const 5) (i32.const 13) (i32.const 9))
      (call $log (i32.const 2) (i32.const 8) (i32.const 0) (i32.const 13) (i32.const 9))))
  (core instance $i (instantiate $m (with "h" (instance (export "log" (func $log))))))
  (func (export "note") (canon lift (core func $i "note"))))"#;

/// What came on which channel.
#[derive(Default)]
struct Heard(Mutex<Vec<(String, String)>>);

impl Observer for Heard {
    fn progress(&self, _: &str, _: Option<f32>) {}

    fn output(&self, channel: Channel<'_>, text: &str) {
        self.0.lock().unwrap().push((format!("{channel:?}"), text.to_owned()));
    }
}

#[tokio::test]
async fn a_log_message_is_output_of_the_call_and_counts_as_such() {
    let sandbox = sandbox();
    let component = load(&sandbox, wat::parse_str(NOTING).unwrap()).await;
    let heard = Arc::new(Heard::default());
    let ports = Ports {
        observer: Arc::clone(&heard) as _,
        ..Ports::denied()
    };
    let run = |authority: Authority| sandbox.call(&component, call("note", "{}"), Arc::new(authority), ports.clone());
    run(authority()).await.result.unwrap();
    let told = std::mem::take(&mut *heard.0.lock().unwrap());
    let log = format!("{:?}", Channel::Named("log"));
    assert_eq!(
        told,
        [
            (log.clone(), "warn tides: low water\n".to_owned()),
            (log, "info: low water\n".to_owned())
        ]
    );
    let mut one_line = authority();
    one_line.limits.log_lines = 1;
    let ended = run(one_line).await.result.unwrap_err();
    assert!(
        ended.message.contains("log_lines") || ended.message.contains("lines"),
        "{ended:?}"
    );
}

/// What a call asked of its host, in order, for who explains it.
async fn explained(wasm: Vec<u8>, tool: &str, authority: Authority) -> Vec<HostCall> {
    let sandbox = sandbox();
    let component = load(&sandbox, wasm).await;
    let witness = Arc::new(Witness::new(str::to_owned));
    let ports = Ports {
        witness: Some(Arc::clone(&witness)),
        ..env()
    };
    sandbox
        .call(&component, call(tool, "{}"), Arc::new(authority), ports)
        .await;
    witness.take().rows
}

#[tokio::test]
async fn settings_and_log_messages_are_taken_down_with_what_became_of_them() {
    let of = |rows: &[HostCall]| -> Vec<_> {
        let told = rows.iter();
        told.map(|row| (row.interface, row.asked.clone(), row.outcome.clone()))
            .collect()
    };
    let done = |words: &str| Outcome::Done(words.to_owned());
    let greeting = || configured("0.2.0-draft", "GREETING");

    let read = explained(greeting(), "setting", granted(&["GREETING"])).await;
    let expected = [(Interface::Settings, "get \"GREETING\"".to_owned(), done("5 bytes"))];
    assert_eq!(of(&read), expected, "its size, not its value");
    assert_eq!(read[0].rule.as_deref(), Some("[env] names"));
    let unset = explained(configured("0.2.0-draft", "ABSENT"), "setting", granted(&["ABSENT"])).await;
    assert_eq!(unset[0].outcome, done("not set"));
    let all = explained(greeting(), "settings", granted(&["GREETING"])).await;
    assert_eq!(
        of(&all),
        [(
            Interface::Settings,
            "which settings there are".to_owned(),
            done("GREETING")
        )]
    );
    let refused = explained(greeting(), "setting", granted(&[])).await;
    assert!(
        matches!(&refused[0].outcome, Outcome::Denied(why) if why.contains("GREETING") && why.contains("`[env]`")),
        "{refused:?}"
    );

    let noted = explained(wat::parse_str(NOTING).unwrap(), "note", authority()).await;
    let expected = ["log 9 bytes as warn", "log 9 bytes as info"];
    let expected = expected.map(|asked| (Interface::Logging, asked.to_owned(), done("passed on")));
    assert_eq!(of(&noted), expected);
}
