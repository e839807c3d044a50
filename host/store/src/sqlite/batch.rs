//! Statements that are sent to the database together.
//!
//! Each query of `sqlx` is handed to the connection's thread and waited for, which takes longer than most of the small statements of an
//! append. A batch goes there and back once. The statements run in order, and the first that fails, or that does not answer as it must,
//! ends it; others behind it may have run by then, so an error means that the transaction is to be undone.
//!
//! Only here is it used that the driver runs several statements of one text, with the values for their `?` one after the other.

use super::failed;
use crate::api::{Result, StoreError};
use futures::TryStreamExt as _;
use sqlx::{
    Arguments as _, AssertSqlSafe, Either, Encode, Executor as _, Row as _, Sqlite, Type,
    sqlite::{SqliteArguments, SqliteConnection, SqliteRow},
};

/// How many statements go together at most. Each sequence of them is prepared once, so there should not be too many.
const TOGETHER: usize = 16;

/// A statement with `?` for its values, and what is to become of it.
#[derive(Clone, Copy)]
pub(super) struct Statement {
    text: &'static str,
    failed: fn(sqlx::Error) -> StoreError,
    check: fn(&Answer) -> Result<()>,
}

/// What a statement answered.
#[derive(Default)]
pub(super) struct Answer {
    first: Option<SqliteRow>,
    affected: u64,
}

/// Statements to be sent, with their values.
#[derive(Default)]
pub(super) struct Batch {
    parts: Vec<Part>,
    len: usize,
    unbound: Option<sqlx::Error>,
}

#[derive(Default)]
struct Part {
    text: String,
    values: SqliteArguments,
    statements: Vec<Statement>,
}

impl Statement {
    pub(super) const fn new(text: &'static str) -> Self {
        Self {
            text,
            failed,
            check: |_| Ok(()),
        }
    }

    /// The same, with an error of its own where the database refuses it.
    pub(super) const fn or_else(self, failed: fn(sqlx::Error) -> StoreError) -> Self {
        Self { failed, ..self }
    }

    /// The same, refused unless its answer is right.
    pub(super) const fn checked(self, check: fn(&Answer) -> Result<()>) -> Self {
        Self { check, ..self }
    }
}

impl Answer {
    /// The first column of the first row, if there is a row.
    pub(super) fn value<T>(&self) -> Result<Option<T>>
    where
        for<'r> T: sqlx::Decode<'r, Sqlite> + Type<Sqlite>,
    {
        let value = self.first.as_ref().map(|row| row.try_get(0)).transpose();
        value.map_err(failed)
    }

    /// How many rows the statement changed.
    pub(super) const fn affected(&self) -> u64 {
        self.affected
    }
}

impl Batch {
    /// Statements without values.
    pub(super) fn of(statements: &[Statement]) -> Self {
        let mut batch = Self::default();
        for statement in statements {
            batch.add(*statement);
        }
        batch
    }

    /// Adds a statement; its values are to be bound next, each `?` in its turn. Gives its place among the answers.
    pub(super) fn add(&mut self, statement: Statement) -> usize {
        if self.parts.last().is_none_or(|part| part.statements.len() == TOGETHER) {
            self.parts.push(Part::default());
        }
        if let Some(part) = self.parts.last_mut() {
            part.text.push_str(statement.text);
            part.text.push(';');
            part.statements.push(statement);
        }
        self.len += 1;
        self.len - 1
    }

    /// Binds the next value of the statement that was added last.
    pub(super) fn bind<'v>(&mut self, value: impl Encode<'v, Sqlite> + Type<Sqlite>) -> &mut Self {
        if let Some(part) = self.parts.last_mut()
            && let Err(error) = part.values.add(value)
        {
            self.unbound.get_or_insert(sqlx::Error::Encode(error));
        }
        self
    }

    /// Runs the statements, inside a transaction that is undone if this fails.
    pub(super) async fn run(self, connection: &mut SqliteConnection) -> Result<Vec<Answer>> {
        if let Some(error) = self.unbound {
            return Err(failed(error));
        }
        let mut answers = Vec::with_capacity(self.len);
        for part in self.parts {
            part.run(connection, &mut answers).await?;
        }
        Ok(answers)
    }
}

impl Part {
    async fn run(self, connection: &mut SqliteConnection, answers: &mut Vec<Answer>) -> Result<()> {
        debug_assert_eq!(
            self.text.matches('?').count(),
            self.values.len(),
            "each `?` has a value: {}",
            self.text
        );
        let mut statements = self.statements.into_iter();
        let mut statement = statements.next();
        let mut answer = Answer::default();
        // Texts of constants: what others chose is bound.
        let query = sqlx::query_with(AssertSqlSafe(self.text), self.values);
        let mut told = connection.fetch_many(query);
        while let Some(current) = statement {
            match told.try_next().await.map_err(current.failed)? {
                Some(Either::Right(row)) => {
                    answer.first.get_or_insert(row);
                }
                Some(Either::Left(ended)) => {
                    answer.affected = ended.rows_affected();
                    (current.check)(&answer)?;
                    answers.push(std::mem::take(&mut answer));
                    statement = statements.next();
                }
                None => {
                    return Err(StoreError::Corrupt {
                        reason: "the database ran fewer statements than it was sent".into(),
                    });
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Batch, Statement};
    use crate::api::StoreError;
    use sqlx::{Connection as _, SqliteConnection};

    const CREATE: Statement = Statement::new("CREATE TABLE t (n INTEGER PRIMARY KEY, s TEXT)");
    const INSERT: Statement = Statement::new("INSERT INTO t (n, s) VALUES (?, ?)");
    const GIVEN_BACK: Statement = Statement::new("UPDATE t SET n = n + ? RETURNING n");
    const COUNT: Statement = Statement::new("SELECT count(*) FROM t");

    async fn empty() -> SqliteConnection {
        let mut connection = SqliteConnection::connect("sqlite::memory:").await.unwrap();
        let mut batch = Batch::default();
        batch.add(CREATE);
        batch.run(&mut connection).await.unwrap();
        connection
    }

    #[tokio::test]
    async fn statements_run_in_order_with_their_own_values_however_many_there_are() {
        let mut connection = empty().await;
        let mut batch = Batch::default();
        for n in 0..100_i64 {
            batch.add(INSERT);
            batch.bind(n).bind(format!("row {n}"));
        }
        let moved = batch.add(GIVEN_BACK);
        batch.bind(1000_i64);
        let counted = batch.add(COUNT);
        let answers = batch.run(&mut connection).await.unwrap();
        assert_eq!(answers.len(), 102);
        assert_eq!((answers[0].affected(), answers[0].value::<i64>().unwrap()), (1, None));
        assert_eq!(answers[moved].affected(), 100);
        assert!(answers[moved].value::<i64>().unwrap().is_some_and(|n| n >= 1000));
        assert_eq!(answers[counted].value::<i64>().unwrap(), Some(100));
        let last: String = sqlx::query_scalar("SELECT s FROM t WHERE n = 1099")
            .fetch_one(&mut connection)
            .await
            .unwrap();
        assert_eq!(last, "row 99");
    }

    #[tokio::test]
    async fn the_first_that_fails_ends_it_with_its_own_error() {
        let mut connection = empty().await;
        let mut batch = Batch::default();
        batch.add(INSERT);
        batch.bind(1_i64).bind("a");
        batch.add(INSERT.or_else(|_| StoreError::Lost));
        batch.bind(1_i64).bind("b");
        batch.add(INSERT.or_else(|_| StoreError::Archived));
        batch.bind(1_i64).bind("c");
        assert!(matches!(batch.run(&mut connection).await, Err(StoreError::Lost)));
    }

    #[tokio::test]
    async fn an_answer_that_is_not_right_is_told_before_what_comes_of_it() {
        let mut connection = empty().await;
        let mut batch = Batch::default();
        batch.add(GIVEN_BACK.checked(|answer| match answer.affected() {
            0 => Err(StoreError::Gone { what: "row" }),
            _ => Ok(()),
        }));
        batch.bind(1_i64);
        batch.add(Statement::new("INSERT INTO t (n) VALUES ('no number')"));
        assert!(matches!(
            batch.run(&mut connection).await,
            Err(StoreError::Gone { what: "row" })
        ));
    }
}
