use crate::house::House;
use fumehood_server::ServerConfig;
use http::StatusCode;
use http_body_util::BodyExt as _;

#[tokio::test]
async fn a_file_is_made_read_replaced_and_deleted() {
    let house = House::new().await;
    let file = format!("{}/files/data/a%20b.txt", house.session().await);
    let made = house.put(&file).body("text/plain", "one").answer().await;
    assert_eq!(
        (made.status, made.json()["path"].as_str()),
        (StatusCode::CREATED, Some("data/a b.txt")),
        "{}",
        made.text()
    );
    let read = house.get(&file).answer().await;
    assert_eq!(
        (&read.body[..], &read.headers["etag"]),
        (&b"one"[..], &made.headers["etag"])
    );
    assert_eq!(read.headers["content-type"], "application/octet-stream");
    assert_eq!(read.headers["x-content-type-options"], "nosniff");
    let again = house.put(&file).body("text/html", "two").answer().await;
    assert_eq!(again.status, StatusCode::OK);
    assert_ne!(again.headers["etag"], made.headers["etag"]);
    assert_eq!(house.delete(&file).answer().await.status, StatusCode::NO_CONTENT);
    assert_eq!(house.get(&file).answer().await.problem(), "not_found");
    assert_eq!(house.delete(&file).answer().await.problem(), "not_found");
}

#[tokio::test]
async fn a_change_is_made_only_to_the_version_it_names() {
    let house = House::new().await;
    let file = format!("{}/files/a", house.session().await);
    let put =
        |header: &'static str, value: String| house.put(&file).with(header, &value).body("text/plain", "x").answer();
    assert_eq!(put("if-match", "*".into()).await.problem(), "precondition_failed");
    let first = put("if-none-match", "*".into()).await;
    assert_eq!(first.status, StatusCode::CREATED);
    assert_eq!(put("if-none-match", "*".into()).await.problem(), "precondition_failed");
    let tag = first.headers["etag"].to_str().unwrap().to_owned();
    house.put(&file).body("text/plain", "changed").answer().await;
    let late = put("if-match", tag.clone()).await;
    assert_eq!(
        (late.status, late.problem().as_str()),
        (StatusCode::PRECONDITION_FAILED, "precondition_failed")
    );
    assert_eq!(
        house.delete(&file).with("if-match", &tag).answer().await.problem(),
        "precondition_failed"
    );
    let now = late.json()["etag"].as_str().unwrap().to_owned();
    assert_eq!(put("if-match", format!("\"x\", {now}")).await.status, StatusCode::OK);
    assert_eq!(put("if-none-match", tag).await.problem(), "invalid_header");
}

#[tokio::test]
async fn a_version_that_the_client_has_is_not_sent_again() {
    let house = House::new().await;
    let file = format!("{}/files/a", house.session().await);
    let made = house.put(&file).body("text/plain", "x").answer().await;
    let answer = house
        .get(&file)
        .with("if-none-match", made.headers["etag"].to_str().unwrap())
        .answer()
        .await;
    assert_eq!((answer.status, answer.body.len()), (StatusCode::NOT_MODIFIED, 0));
}

#[tokio::test]
async fn files_are_listed_and_searched() {
    let house = House::new().await;
    let files = format!("{}/files", house.session().await);
    for (path, text) in [
        ("a.txt", "alpha\nbeta\n"),
        ("src/b.rs", "beta\n"),
        ("src/deep/c.rs", "gamma\nbeta\n"),
    ] {
        house
            .put(&format!("{files}/{path}"))
            .body("text/plain", text)
            .answer()
            .await;
    }
    let paths = |query: &str| {
        let ask = house.get(&format!("{files}{query}"));
        async move {
            let page = ask.answer().await.json();
            page["items"]
                .as_array()
                .unwrap()
                .iter()
                .map(|item| item["path"].as_str().unwrap().to_owned())
                .collect::<Vec<_>>()
        }
    };
    let all = ["a.txt", "src", "src/b.rs", "src/deep", "src/deep/c.rs"];
    assert_eq!(paths("?list").await, all);
    assert_eq!(paths("").await, all);
    assert_eq!(paths("?list&depth=here&directory=src/").await, ["src/b.rs", "src/deep"]);
    assert_eq!(paths("?grep=beta&glob=**/*.rs").await, ["src/b.rs", "src/deep/c.rs"]);
    let page = house.get(&format!("{files}?grep=beta&limit=2")).answer().await.json();
    assert_eq!(
        (&page["items"][0]["line"], page["next"].as_str()),
        (&2.into(), Some("2"))
    );
    assert_eq!(paths("?grep=beta&limit=2&cursor=2").await, ["src/deep/c.rs"]);
    for query in [
        "?grep=(",
        "?grep=a&list",
        "?glob=*",
        "?sort=size",
        "?limit=0",
        "?limit=5000",
    ] {
        assert_eq!(
            house.get(&format!("{files}{query}")).answer().await.problem(),
            "invalid_query",
            "{query}"
        );
    }
    for query in ["?cursor=x", "?grep=a&cursor=x"] {
        assert_eq!(
            house.get(&format!("{files}{query}")).answer().await.problem(),
            "invalid_cursor",
            "{query}"
        );
    }
}

#[tokio::test]
async fn a_path_never_leads_out() {
    let house = House::new().await;
    let files = format!("{}/files", house.session().await);
    for path in [
        "..%2Fx",
        "a/..%2F..%2Fx",
        "%2Fetc%2Fpasswd",
        "a%00b",
        "a/%2E%2E/%2E%2E/x",
    ] {
        let answer = house
            .put(&format!("{files}/{path}"))
            .body("text/plain", "x")
            .answer()
            .await;
        assert_eq!(answer.problem(), "invalid_name", "{path}");
    }
}

#[tokio::test]
async fn what_is_no_file_is_told_from_what_is_not_there() {
    let house = House::new().await;
    let files = format!("{}/files", house.session().await);
    house
        .put(&format!("{files}/dir/a"))
        .body("text/plain", "x")
        .answer()
        .await;
    assert_eq!(
        house.get(&format!("{files}/dir")).answer().await.problem(),
        "not_a_file"
    );
    assert_eq!(
        house
            .put(&format!("{files}/dir/a/b"))
            .body("text/plain", "x")
            .answer()
            .await
            .problem(),
        "not_a_file"
    );
    assert_eq!(
        house.delete(&format!("{files}/dir")).answer().await.problem(),
        "directory_not_empty"
    );
}

#[tokio::test]
async fn a_file_above_the_limit_is_refused() {
    let house = House::with(ServerConfig {
        file_body: 10,
        ..ServerConfig::default()
    })
    .await;
    let file = format!("{}/files/a", house.session().await);
    let answer = house.put(&file).body("text/plain", "01234567890").answer().await;
    assert_eq!(
        (answer.status, answer.problem().as_str()),
        (StatusCode::PAYLOAD_TOO_LARGE, "body_too_large")
    );
    assert_eq!(answer.json()["limit"], 10);
    assert_eq!(
        house.get(&file).answer().await.problem(),
        "not_found",
        "nothing was written"
    );
}

#[tokio::test]
async fn a_large_file_is_read_piece_by_piece_and_without_its_secrets() {
    let house = House::new().await;
    let path = house.session().await;
    let set = house
        .put(&format!("{path}/secrets/TOKEN"))
        .body("text/plain", "hunter2-hunter2");
    assert!(set.answer().await.status.is_success());
    // Over the border of two pieces.
    let mut bytes = vec![b'x'; 300_000];
    bytes[65_530..65_545].copy_from_slice(b"hunter2-hunter2");
    let file = format!("{path}/files/large");
    let written = house.put(&file).body("x/x", bytes.clone()).answer().await;
    let read = house.get(&file).response().await;
    assert_eq!(read.headers()["etag"], written.headers["etag"]);
    let (mut body, mut all) = (read.into_body(), Vec::new());
    while let Some(frame) = body.frame().await {
        let piece = frame.unwrap().into_data().unwrap();
        assert!(piece.len() <= 128 << 10, "{}", piece.len());
        all.extend(piece);
    }
    let text = String::from_utf8(all).unwrap();
    assert!(text.contains("[secret:TOKEN]") && !text.contains("hunter2"));
    assert_eq!(
        text.len(),
        bytes.len() - "hunter2-hunter2".len() + "[secret:TOKEN]".len()
    );
    let seen = house
        .get(&file)
        .with("if-none-match", written.headers["etag"].to_str().unwrap());
    assert_eq!(seen.answer().await.status.as_u16(), 304);
}
