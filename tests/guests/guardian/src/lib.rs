//! A hook that does as it is told by what it is shown: the host's end-to-end tests write the words into a turn.
//!
//! What begins with `guardian:` in any text of an occasion says what to do. Without it, everything is allowed.
#![forbid(unsafe_code)]
// Panics and endless loops are what some of the words ask for.
#![allow(clippy::panic, clippy::infinite_loop)]

use fumehood::{
    Failure, Result,
    hook::{Decision, Occasion},
    http,
};
use serde_json::Value;
use std::fs;

fumehood::export_hook!(decide);

/// Does what the first word after `guardian:` says.
pub fn decide(occasion: &Occasion) -> Result<Decision> {
    let text = occasion.about().to_string();
    let Some((_, told)) = text.split_once("guardian:") else {
        return Ok(Decision::Allow);
    };
    let told = told.split(['"', '\\']).next().unwrap_or_default();
    let (what, with) = told.split_once(' ').unwrap_or((told, ""));
    match what {
        "deny" => Ok(Decision::deny(with)),
        "spin" => loop {
            std::hint::spin_loop();
        },
        "panic" => panic!("told to"),
        "fail" => Err(Failure::failed(with)),
        "say" => {
            println!("{with}");
            Ok(Decision::Allow)
        }
        "rename" => Ok(changed(occasion, with)),
        // What it could reach is told by what it denies with.
        "fetch" => Ok(Decision::deny(match http::get(with).send() {
            Ok(response) => format!("got {}", response.status()),
            Err(error) => format!("got nothing: {error}"),
        })),
        "files" => Ok(Decision::deny(match fs::read_dir("/workspace") {
            Ok(_) => "there are files",
            Err(_) => "there are no files",
        })),
        _ => Ok(Decision::Allow),
    }
}

/// The call's arguments, with another path.
fn changed(occasion: &Occasion, path: &str) -> Decision {
    let mut arguments = occasion.about()["arguments"].clone();
    if let Value::Object(given) = &mut arguments {
        given.insert("path".to_owned(), Value::from(path));
        given.insert("content".to_owned(), Value::from("renamed"));
        return Decision::ChangeArguments(arguments);
    }
    Decision::Allow
}

#[cfg(test)]
mod tests {
    use super::*;
    use fumehood::{hook::Point, testing::occasion};
    use serde_json::json;

    #[test]
    fn it_does_as_it_is_told_and_else_nothing() {
        let asked = |about| decide(&occasion(Point::BeforeToolCall, about));
        assert_eq!(asked(json!({"arguments": {"path": "a"}})), Ok(Decision::Allow));
        let denied = asked(json!({"arguments": {"content": "guardian:deny not here"}}));
        assert_eq!(denied, Ok(Decision::deny("not here")));
        let renamed = asked(json!({"arguments": {"path": "a", "content": "guardian:rename b"}}));
        let arguments = json!({"path": "b", "content": "renamed"});
        assert_eq!(renamed, Ok(Decision::ChangeArguments(arguments)));
    }
}
