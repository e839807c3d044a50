//! Searching files for lines: what is found, what is refused, and where it stops.

use super::*;
use fumehood_store::workspace::Skipped;

#[tokio::test]
async fn grep_finds_lines_with_their_surroundings() {
    let f = fixture().await;
    f.put("src/a.rs", b"one\ntwo\r\nthree\nfour\n").await.unwrap();
    f.put("src/deep/b.rs", b"two \xff").await.unwrap();
    f.put("c.md", b"two").await.unwrap();
    f.put("bin", b"two\0").await.unwrap();
    let request = GrepRequest {
        context: 1,
        ..search("^t(wo|hree)")
    };
    let found = f.files.grep(f.session, request, |bytes| bytes).await.unwrap();
    let shown: Vec<_> = found
        .matches
        .iter()
        .map(|line| (line.path.as_str(), line.number, line.text.as_str()))
        .collect();
    assert_eq!(
        shown,
        [
            ("c.md", 1, "two"),
            ("src/a.rs", 2, "two"),
            ("src/a.rs", 3, "three"),
            ("src/deep/b.rs", 1, "two \u{fffd}")
        ]
    );
    assert_eq!(
        (&found.matches[1].before[..], &found.matches[1].after[..]),
        (&["one".to_owned()][..], &["three".to_owned()][..])
    );
    assert_eq!((found.stopped, found.skipped_files), (None, 1));
    for (glob, count) in [("*.rs", 0), ("**/*.rs", 2), ("src/*.rs", 1), ("*.md", 1)] {
        let request = GrepRequest {
            glob: Some(glob.into()),
            ..search("^two")
        };
        assert_eq!(
            f.files
                .grep(f.session, request, |bytes| bytes)
                .await
                .unwrap()
                .matches
                .len(),
            count,
            "{glob}"
        );
    }
    let request = GrepRequest {
        directory: Some(path("src")),
        offset: 1,
        limit: 1,
        ..search("o")
    };
    let found = f.files.grep(f.session, request, |bytes| bytes).await.unwrap();
    assert_eq!(
        (found.matches[0].number, found.stopped),
        (2, Some(Skipped::MoreMatches))
    );
}

#[tokio::test]
async fn grep_refuses_costly_patterns() {
    let f = fixture().await;
    for pattern in ["(", &"x".repeat(1001), r"\w{999}{999}", "(?=x)"] {
        let error = f
            .files
            .grep(f.session, search(pattern), |bytes| bytes)
            .await
            .unwrap_err();
        assert!(matches!(error, WorkspaceError::BadRequest { .. }), "{pattern}: {error}");
    }
    for glob in ["[", &"x".repeat(1001)] {
        let request = GrepRequest {
            glob: Some(glob.into()),
            ..search("x")
        };
        let error = f.files.grep(f.session, request, |bytes| bytes).await.unwrap_err();
        assert!(matches!(error, WorkspaceError::BadRequest { .. }), "{glob}: {error}");
    }
}

#[tokio::test]
async fn grep_stops_at_its_limits_and_says_so() {
    let f = fixture().await;
    f.put("large", &b"x\n".repeat(300 * 1024)).await.unwrap();
    let found = f.files.grep(f.session, search("x"), |bytes| bytes).await.unwrap();
    assert_eq!((found.matches.len(), found.skipped_files), (0, 1));
    f.put("long", &b"x".repeat(400 * 1024)).await.unwrap();
    let found = f.files.grep(f.session, search("x"), |bytes| bytes).await.unwrap();
    assert_eq!(found.matches[0].text.chars().count(), 1025);
    f.put("many", &[&b"x".repeat(900)[..], b"\n"].concat().repeat(200))
        .await
        .unwrap();
    let found = f.files.grep(f.session, search("x"), |bytes| bytes).await.unwrap();
    assert_eq!(found.stopped, Some(Skipped::AnswerFull));
    assert!(found.matches.iter().map(|line| line.text.len()).sum::<usize>() <= 64 * 1024);
    for number in 0..11 {
        f.put(&format!("scan{number}"), &b"y".repeat(500 * 1024)).await.unwrap();
    }
    let found = f.files.grep(f.session, search("z"), |bytes| bytes).await.unwrap();
    assert_eq!(found.stopped, Some(Skipped::ScanLimit));
}

#[tokio::test]
async fn a_file_is_cleaned_whole_before_it_is_searched_split_and_cut() {
    let f = fixture().await;
    let long = format!("{}begin\nend of it\nlast\n", "x".repeat(1020));
    f.put("a", long.as_bytes()).await.unwrap();
    let clean = |bytes: Vec<u8>| {
        let text = String::from_utf8(bytes).unwrap();
        text.replace("begin\nend", "[gone]").into_bytes()
    };
    let found = f.files.grep(f.session, search("of it"), clean).await.unwrap();
    assert_eq!(found.matches.len(), 1);
    assert_eq!(found.matches[0].number, 1);
    assert!(found.matches[0].text.ends_with("x[gon…"), "{}", found.matches[0].text);
    assert_eq!(
        f.files.grep(f.session, search("begin"), clean).await.unwrap().matches,
        []
    );
}
