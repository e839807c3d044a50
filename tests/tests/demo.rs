//! The demo, as a newcomer runs it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail by panicking"
)]

use fumehood_tests::Place;

#[tokio::test]
async fn the_demo_tells_its_whole_story() {
    let place = Place::empty("");
    let output = place.run(&["demo"]).await;
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success(),
        "{told}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    for part in [
        "egress.allowed",
        "egress.denied",
        "tool.completed",
        "trapped",
        "turn.completed",
        "RATES_KEY",
        "report.md",
    ] {
        assert!(told.contains(part), "{part} is missing in:\n{told}");
    }
    assert!(!told.contains("rates-4f1d9c27e85b"), "the key is told");
    assert!(!told.contains('✗') || told.contains("✗ trapped"), "{told}");
}
