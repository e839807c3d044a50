//! Who waits for whom.

use super::*;
use std::task::{Context, Waker};

#[tokio::test]
async fn writers_of_one_session_that_wait_for_each_other_keep_no_other_session_waiting() {
    let place = tempfile::tempdir().unwrap();
    let workspaces = Workspaces::open(&DataDir::open(place.path()).await.unwrap(), Quota::default()).unwrap();
    let [busy, other] = [1, 2].map(|n| SessionId::from_uuid(uuid::Uuid::from_u128(n)));
    let path: WorkspacePath = "a".parse().unwrap();
    let first = workspaces.inner.writers.lock(busy).await;
    let mut waiting: Vec<_> = (0..2 * AT_ONCE)
        .map(|_| Box::pin(workspaces.write(busy, &path, vec![1], Precondition::Any)))
        .collect();
    let mut context = Context::from_waker(Waker::noop());
    assert!(
        waiting
            .iter_mut()
            .all(|write| write.as_mut().poll(&mut context).is_pending())
    );
    workspaces
        .write(other, &path, vec![2], Precondition::Any)
        .await
        .unwrap();
    drop(first);
    for write in waiting {
        write.await.unwrap();
    }
}
#[tokio::test]
async fn those_who_wait_for_a_tree_to_be_opened_keep_no_other_session_waiting() {
    let place = tempfile::tempdir().unwrap();
    let workspaces = Workspaces::open(&DataDir::open(place.path()).await.unwrap(), Quota::default()).unwrap();
    let [busy, other] = [1, 2].map(|n| SessionId::from_uuid(uuid::Uuid::from_u128(n)));
    let opening = workspaces.inner.trees.openers.lock(busy).await;
    let mut context = Context::from_waker(Waker::noop());
    let mut trees: Vec<_> = (0..AT_ONCE).map(|_| Box::pin(workspaces.tree(busy))).collect();
    let mut usages: Vec<_> = (0..AT_ONCE).map(|_| Box::pin(workspaces.usage(busy))).collect();
    assert!(
        trees
            .iter_mut()
            .all(|tree| tree.as_mut().poll(&mut context).is_pending())
    );
    assert!(
        usages
            .iter_mut()
            .all(|usage| usage.as_mut().poll(&mut context).is_pending())
    );
    let path: WorkspacePath = "a".parse().unwrap();
    workspaces
        .write(other, &path, vec![2], Precondition::Any)
        .await
        .unwrap();
    drop(opening);
    for tree in trees {
        tree.await.unwrap();
    }
    for usage in usages {
        usage.await.unwrap();
    }
}
