//! `fumehood run` as a person at a terminal sees it: what is asked, what decides, and what stays on the screen.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail by panicking"
)]

use fumehood_tests::{
    Place,
    terminal::{Answer, Terminal},
};
use serde_json::{Value, json};

const SCRIPT: &str = r#"
turns:
  - match: "one"
    steps:
      - tool_calls:
          - { tool: files_write, arguments: { path: "a.txt", content: "a" } }
      - text: "Done."
  - match: "late"
    steps:
      - delay_ms: 5000
        tool_calls:
          - { tool: files_write, arguments: { path: "a.txt", content: "a" } }
          - { tool: files_write, arguments: { path: "b.txt", content: "b" } }
      - text: "Done."
  - match: "slow"
    steps:
      - delay_ms: 4000
        text: "Done."
"#;

const ASK: &str = r#"
[agent.assistant]
approval_timeout = "TIMEOUT"
[[agent.assistant.approval]]
tool = "files_write"
decide = "ask"
"#;

const QUESTION: &str = "run it? y (yes), n (no), e (edit the arguments), or say why not>";
const EDIT: &str = "the arguments, as JSON on one line>";

const COLUMNS: u16 = 100;

fn place(timeout: &str) -> Place {
    Place::scripted(SCRIPT, &ASK.replace("TIMEOUT", timeout))
}

#[tokio::test]
async fn what_is_approved_runs() {
    let place = place("1h");
    let mut terminal = place.terminal(&["run", "one"], COLUMNS);
    terminal.shows(QUESTION, 1).await;
    assert!(
        terminal.screen().contains("files_write wants to run:"),
        "{}",
        terminal.screen()
    );
    // A slip of the finger decides nothing.
    terminal.types("x\n");
    terminal.shows(QUESTION, 2).await;
    terminal.types("y\n");
    let (status, _, screen) = terminal.ended().await;
    assert!(status.success(), "{screen}");
    assert!(
        screen.contains("✓ files_write(") && screen.contains(") approved"),
        "{screen}"
    );
    assert!(screen.contains("\nDone.\n"), "{screen}");
}

#[tokio::test]
async fn what_is_rejected_does_not_run_and_the_reason_is_told() {
    let place = place("1h");
    let mut terminal = place.terminal(&["run", "one"], COLUMNS);
    terminal.shows(QUESTION, 1).await;
    terminal.types("not before Monday\n");
    let (status, _, screen) = terminal.ended().await;
    assert!(status.success(), "{screen}");
    assert!(screen.contains(") rejected: not before Monday"), "{screen}");
    assert!(!screen.contains("approved"), "{screen}");
}

#[tokio::test]
async fn an_edit_is_asked_about_again_until_it_is_one() {
    let place = place("1h");
    let mut terminal = place.terminal(&["run", "one"], COLUMNS);
    terminal.shows(QUESTION, 1).await;
    terminal.types("e\n");
    terminal.shows(EDIT, 1).await;
    terminal.types("not JSON\n");
    terminal.shows("the arguments are not a JSON object", 1).await;
    terminal.shows(QUESTION, 2).await;
    // Arguments that the tool does not take are the host's to refuse.
    terminal.types("e\n");
    terminal.shows(EDIT, 2).await;
    terminal.types("{\"path\": 5}\n");
    terminal.shows(QUESTION, 3).await;
    terminal.types("y\n");
    terminal.shows("(invalid_decision)", 1).await;
    terminal.shows(QUESTION, 4).await;
    terminal.types("e\n");
    terminal.shows(EDIT, 3).await;
    terminal.types("{\"path\": \"c.txt\", \"content\": \"c\"}\n");
    terminal.shows(QUESTION, 5).await;
    assert!(
        terminal.screen().contains("\"path\": \"c.txt\""),
        "{}",
        terminal.screen()
    );
    terminal.types("y\n");
    let (status, _, screen) = terminal.ended().await;
    assert!(status.success(), "{screen}");
    assert!(
        screen.contains(r#"({"path":"c.txt","content":"c"}) approved"#),
        "{screen}"
    );
}

#[tokio::test]
async fn arguments_that_the_terminal_cuts_say_how_to_give_them_otherwise() {
    let place = place("1h");
    let mut terminal = place.terminal(&["run", "one"], COLUMNS);
    terminal.shows(QUESTION, 1).await;
    terminal.types("e\n");
    terminal.shows(EDIT, 1).await;
    let content = "c".repeat(5000);
    terminal.types(&format!("{{\"path\": \"a.txt\", \"content\": \"{content}\"}}\n"));
    terminal.shows("the terminal cuts a line at 4,095 bytes", 1).await;
    terminal.shows(QUESTION, 2).await;
    // Ctrl-D: nobody answers, and what is said then is how to decide otherwise.
    terminal.types("\u{4}");
    let (status, _, screen) = terminal.ended().await;
    assert_eq!(status.code(), Some(1), "{screen}");
    assert!(screen.contains("waits for a decision about its calls"), "{screen}");
}

#[tokio::test]
async fn what_was_typed_before_a_question_is_no_answer_to_it() {
    let place = place("1h");
    let mut terminal = place.terminal(&["run", "late"], COLUMNS);
    terminal.shows("waiting for the model", 1).await;
    terminal.types("y\ny\n");
    terminal.shows(QUESTION, 1).await;
    assert!(terminal.screen().contains("\"a.txt\""), "{}", terminal.screen());
    // Nor is what was typed behind the answer to another.
    terminal.types("n\ny\n");
    terminal.shows(QUESTION, 2).await;
    assert!(terminal.screen().contains("\"b.txt\""), "{}", terminal.screen());
    terminal.types("n\n");
    let (status, _, screen) = terminal.ended().await;
    assert!(status.success(), "{screen}");
    assert_eq!(screen.matches(") rejected").count(), 2, "{screen}");
    assert!(!screen.contains("approved"), "{screen}");
}

#[tokio::test]
async fn a_name_that_was_typed_before_deletes_no_org() {
    let place = Place::new("");
    place.json(&["org", "create", "acme"]).await;
    let delete = || place.terminal(&["org", "delete", "acme"], COLUMNS);
    let mut terminal = delete();
    // Before the question: the command has not even begun.
    terminal.types("acme\n");
    terminal.shows("Type its name to go on:", 1).await;
    terminal.types("another\n");
    let (status, _, screen) = terminal.ended().await;
    assert_eq!(status.code(), Some(1), "{screen}");
    assert!(screen.contains("nothing was deleted"), "{screen}");

    let mut terminal = delete();
    terminal.shows("Type its name to go on:", 1).await;
    terminal.types("acme\n");
    let (status, _, screen) = terminal.ended().await;
    assert!(status.success() && screen.contains("deleted the org acme"), "{screen}");
}

#[tokio::test]
async fn ctrl_c_at_a_question_cancels_the_turn() {
    let place = place("1h");
    let mut terminal = place.terminal(&["run", "one"], COLUMNS);
    terminal.shows(QUESTION, 1).await;
    terminal.types("\u{3}");
    let (status, _, screen) = terminal.ended().await;
    assert_eq!(status.code(), Some(1), "{screen}");
    assert!(screen.contains("✗ cancelled"), "{screen}");
    assert!(!screen.contains("approved"), "{screen}");
}

#[tokio::test]
async fn a_question_whose_time_is_over_on_the_host_is_given_up() {
    let place = place("5s");
    let host = place.serve().await;
    let mut command = place.command(&["run", "one"]);
    command.env("FUMEHOOD_URL", &host.base);
    let terminal = Terminal::open(&command, COLUMNS, Answer::Shown);
    terminal.shows(QUESTION, 1).await;
    let (status, _, screen) = terminal.ended().await;
    assert!(status.success(), "{screen}");
    assert!(screen.contains("\nthe time to decide was over\n"), "{screen}");
    assert!(screen.contains(") nobody decided in time"), "{screen}");
    assert!(screen.contains("\nDone.\n"), "{screen}");
    host.stop().await;
}

#[tokio::test]
async fn without_a_serving_host_a_run_ends_its_own_wait_and_no_other() {
    let place = place("5s");
    // Nobody is at a terminal: the question stays, and its time is over long before that of the next.
    let left = place.run(&["--json", "run", "one"]).await;
    let events = String::from_utf8(left.stdout).unwrap();
    assert_eq!(left.status.code(), Some(1), "{events}");
    let last: Value = serde_json::from_str(events.lines().last().unwrap()).unwrap();
    let terminal = place.terminal(&["run", "one"], COLUMNS);
    terminal.shows(QUESTION, 1).await;
    let (status, _, screen) = terminal.ended().await;
    assert!(status.success(), "{screen}");
    assert!(screen.contains("\nthe time to decide was over\n"), "{screen}");
    assert!(screen.contains(") nobody decided in time"), "{screen}");
    assert!(screen.contains("\nDone.\n"), "{screen}");
    let other = place.json(&["turn", "show", last["turn"].as_str().unwrap()]).await;
    assert_eq!(other["status"], "awaiting_approval", "{other}");
}

#[tokio::test]
async fn a_question_that_somebody_else_answers_is_given_up() {
    let place = place("1h");
    let host = place.serve().await;
    let session = host.session(json!({})).await;
    let mut command = place.command(&["run", "--session", &session, "one"]);
    command.env("FUMEHOOD_URL", &host.base);
    let terminal = Terminal::open(&command, COLUMNS, Answer::Shown);
    terminal.shows(QUESTION, 1).await;
    let events = host.events(&session).await;
    let asked = events
        .iter()
        .find(|event| event["type"] == "approval.requested")
        .unwrap();
    let decisions = json!({"decisions": [{"call_id": asked["data"]["calls"][0]["call_id"], "decision": "approve"}]});
    let path = format!("/v1/turns/{}/approvals", asked["turn"].as_str().unwrap());
    let _: Value = host.post(&path, decisions).await;
    let (status, _, screen) = terminal.ended().await;
    assert!(status.success(), "{screen}");
    assert!(screen.contains("\ndecided meanwhile by somebody else\n"), "{screen}");
    assert!(
        screen.contains(") approved") && screen.contains("\nDone.\n"),
        "{screen}"
    );
    host.stop().await;
}

#[tokio::test]
async fn a_row_that_moves_is_drawn_over_and_leaves_nothing() {
    let place = place("1h");
    let terminal = place.terminal(&["run", "slow"], 25);
    let moved = |terminal: &Terminal| {
        let written = terminal.written();
        "⠋⠙⠹⠸⠼".chars().all(|mark| written.contains(mark))
    };
    terminal.until("a mark that moves", moved).await;
    terminal
        .until("the first second", |terminal| terminal.written().contains("… 1 s"))
        .await;
    assert_eq!(
        terminal.screen().matches("waiting for the").count(),
        1,
        "{}",
        terminal.screen()
    );
    let (status, _, screen) = terminal.ended().await;
    assert!(status.success(), "{screen}");
    assert!(screen.starts_with("Done.\n"), "{screen}");
    assert!(!screen.contains("waiting") && !screen.contains('⠋'), "{screen}");
}

#[tokio::test]
async fn an_answer_in_a_pipe_has_no_control_sequences_of_the_terminal_beside_it() {
    let place = place("1h");
    let mut command = place.command(&["run", "one"]);
    command.env_remove("NO_COLOR");
    let mut terminal = Terminal::open(&command, COLUMNS, Answer::Piped);
    terminal.shows(QUESTION, 1).await;
    terminal.types("y\n");
    let written = terminal.written();
    assert!(written.contains('\u{1b}'), "the terminal has colours: {written:?}");
    let (status, piped, screen) = terminal.ended().await;
    assert!(status.success(), "{screen}");
    assert_eq!(piped, "Done.\n");
    assert!(!screen.contains("Done."), "{screen}");
}
