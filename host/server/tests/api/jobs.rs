//! Jobs that can't be seen through: they keep no place, and end with a reason.

use crate::{
    house::{House, Plan},
    unwritable::{breaks_where_it_logs, refuse, take_again, until, warnings},
};
use fumehood_agent::host::Patience;
use serde_json::{Value, json};
use std::{sync::atomic::Ordering, time::Duration};

const POLL: Duration = Duration::from_millis(5);

/// A house whose tool `double` runs in the background, at most so many of them at a time, and a session of it.
async fn house(patience: Patience, running_per_org: u32) -> (House, String) {
    let mut plan = Plan {
        patience,
        ..Plan::default()
    };
    plan.jobs.running_per_org = running_per_org;
    let house = House::built(plan).await;
    house.add("sums", sums()).await;
    let grant = json!({"jobs": {"background": ["double"]}});
    let granted = house.put("/v1/tools/sums/grant").json(&grant).answer().await;
    assert!(granted.status.is_success(), "{}", granted.text());
    let session = house.session().await;
    (house, session)
}

/// A component that asks for its tool to run in the background.
fn sums() -> Vec<u8> {
    let text = r#"(component
        (@custom "fumehood:manifest" "name = \"sums\"\nversion = \"0.1.0\"\n[jobs]\nbackground = [\"double\"]\n")
        (core module $code (func (export "double") (param i32) (result i32) local.get 0 i32.const 2 i32.mul))
        (core instance $running (instantiate $code))
        (func (export "double") (param "n" u32) (result u32) (canon lift (core func $running "double"))))"#;
    wat::parse_str(text).unwrap()
}

fn impatient() -> Patience {
    Patience {
        held: Duration::ZERO,
        again: Duration::from_millis(1),
    }
}

/// Works a turn that begins a job.
async fn begin(house: &House, session: &str) {
    let model = house.next_answer();
    model.call("double", &json!({"n": 21}));
    let turn = house.post(&format!("{session}/turns")).json(&json!({"input": "go"}));
    assert_eq!(turn.answer().await.json()["status"], "completed");
}

async fn jobs(house: &House, session: &str) -> Vec<Value> {
    let listed = house.get(&format!("{session}/jobs")).answer().await.json();
    listed["items"].as_array().unwrap().clone()
}

/// The newest job, once it has ended.
async fn ended(house: &House, session: &str) -> Value {
    let looking = async {
        loop {
            let newest = jobs(house, session).await[0].clone();
            if !newest["ended"].is_null() {
                let id = newest["id"].as_str().unwrap().to_owned();
                return house.get(&format!("/v1/jobs/{id}")).answer().await.json();
            }
            tokio::time::sleep(POLL).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), looking).await.unwrap()
}

fn reason(job: &Value) -> &str {
    assert_eq!(
        (&job["status"], &job["result"]["status"]),
        (&json!("failed"), &json!("interrupted")),
        "{job}"
    );
    job["result"]["error"]["message"].as_str().unwrap()
}

#[tokio::test]
async fn a_job_of_which_the_store_does_not_take_what_happened_ends_as_that_and_makes_room() {
    let (house, session) = house(impatient(), 1).await;
    refuse(&house, "job.started").await;
    begin(&house, &session).await;
    let refused = ended(&house, &session).await;
    assert!(reason(&refused).contains("could not record"), "{refused}");
    take_again(&house).await;
    begin(&house, &session).await;
    assert_eq!(
        ended(&house, &session).await["status"],
        "completed",
        "the one place is free"
    );
}

#[tokio::test]
async fn a_job_whose_end_the_store_does_not_take_ends_once_it_does() {
    let (_logs, mut lines) = warnings();
    let (house, session) = house(impatient(), 2).await;
    refuse(&house, "job.completed").await;
    begin(&house, &session).await;
    until(&mut lines, "given up can't be written").await;
    assert_eq!(jobs(&house, &session).await[0]["status"], "running");
    // It keeps no other from running.
    take_again(&house).await;
    begin(&house, &session).await;
    for job in [0, 1] {
        let looking = async {
            loop {
                let listed = jobs(&house, &session).await;
                if !listed[job]["ended"].is_null() {
                    return;
                }
                tokio::time::sleep(POLL).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), looking).await.unwrap();
    }
    let events = house
        .get(&format!("{session}/events"))
        .with("accept", "application/json");
    let events = events.answer().await.json();
    let items = events["items"].as_array().unwrap();
    let ends = items.iter().filter(|event| event["type"] == "job.completed").count();
    assert_eq!(ends, 2);
}

#[tokio::test]
async fn a_job_that_breaks_by_a_fault_of_the_host_ends_as_that_and_makes_room() {
    let (_logs, broke) = breaks_where_it_logs("what happened in a job");
    let (house, session) = house(Patience::default(), 1).await;
    refuse(&house, "job.started").await;
    begin(&house, &session).await;
    let broken = ended(&house, &session).await;
    assert!(broke.load(Ordering::Relaxed), "nothing broke");
    assert!(reason(&broken).contains("a fault in the host"), "{broken}");
    take_again(&house).await;
    begin(&house, &session).await;
    assert_eq!(
        ended(&house, &session).await["status"],
        "completed",
        "the one place is free"
    );
}
