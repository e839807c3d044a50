-- Where sessions went back: found without reading their journals. Follows from the `session.rewound` in them.
CREATE TABLE rewinds (
    session   BLOB NOT NULL,
    seq       INTEGER NOT NULL,
    after_seq INTEGER NOT NULL,
    PRIMARY KEY (session, seq),
    FOREIGN KEY (session, seq) REFERENCES events (session, seq) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
