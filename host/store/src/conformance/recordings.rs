//! What calls were answered from outside.

use super::{Outcome, World, completed, ensure, ensure_eq, promises};
use crate::api::StoreError;
use fumehood_core::{
    digest::Digest,
    id::{CallId, TurnId},
};

promises! {
    "a recording is read as it was kept, the last one of a call" => kept,
    "a recording is nobody else's" => nothing_crosses,
    "nothing is recorded for a turn that there is not" => no_turn,
    "recordings go with their session" => deletion,
}

async fn kept(world: &World) -> Outcome {
    let (store, org) = (&world.store, world.org().await?);
    let session = world.session(&org).await?.id;
    let turn = world.turn(&org, session).await?.id;
    let (call, other) = (CallId::new(), CallId::new());
    ensure_eq!(store.recording(&org, turn, call).await?, None, "before it is kept");
    let digest = store
        .keep_recording(&org, (session, turn), call, vec![0, 255, 1])
        .await?;
    ensure_eq!(digest, Digest::of(&[0, 255, 1]), "its digest");
    store.keep_recording(&org, (session, turn), other, Vec::new()).await?;
    ensure_eq!(
        store.recording(&org, turn, call).await?,
        Some(vec![0, 255, 1]),
        "the one"
    );
    ensure_eq!(store.recording(&org, turn, other).await?, Some(Vec::new()), "the other");
    store.append(&org, session, &[completed(turn)]).await?;
    // A call that runs again, whose end was not recorded the first time.
    store
        .keep_recording(&org, (session, turn), call, b"again".to_vec())
        .await?;
    ensure_eq!(
        store.recording(&org, turn, call).await?,
        Some(b"again".to_vec()),
        "after it ran again"
    );
    Ok(())
}

async fn nothing_crosses(world: &World) -> Outcome {
    let (store, org, foreign) = (&world.store, world.org().await?, world.org().await?);
    let session = world.session(&org).await?.id;
    let turn = world.turn(&org, session).await?.id;
    let call = CallId::new();
    store
        .keep_recording(&org, (session, turn), call, b"own".to_vec())
        .await?;
    ensure_eq!(store.recording(&foreign, turn, call).await?, None, "for another org");
    let other = world.session(&org).await?.id;
    for (of, session) in [(&foreign, session), (&org, other)] {
        let refused = store
            .keep_recording(of, (session, turn), call, b"foreign".to_vec())
            .await;
        ensure!(
            matches!(refused, Err(StoreError::Gone { what: "turn" })),
            "for another org or session: {refused:?}"
        );
    }
    ensure_eq!(
        store.recording(&org, turn, call).await?,
        Some(b"own".to_vec()),
        "after that"
    );
    Ok(())
}

async fn no_turn(world: &World) -> Outcome {
    let (store, org) = (&world.store, world.org().await?);
    let session = world.session(&org).await?.id;
    let refused = store
        .keep_recording(&org, (session, TurnId::new()), CallId::new(), Vec::new())
        .await;
    ensure!(
        matches!(refused, Err(StoreError::Gone { what: "turn" })),
        "for no turn: {refused:?}"
    );
    Ok(())
}

async fn deletion(world: &World) -> Outcome {
    let (store, org) = (&world.store, world.org().await?);
    let session = world.session(&org).await?.id;
    let turn = world.turn(&org, session).await?.id;
    let call = CallId::new();
    store.keep_recording(&org, (session, turn), call, b"x".to_vec()).await?;
    ensure!(
        store.delete_session(&org, session).await?,
        "the session was not deleted"
    );
    ensure_eq!(
        store.recording(&org, turn, call).await?,
        None,
        "after the session was deleted"
    );
    Ok(())
}
