//! What a store may have wrong.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Tells every appended event the place of the first.
    ReusesPlaces,
    /// Finds a session whatever the org.
    LeaksSessions,
    /// Appends event by event.
    SplitsAppends,
    /// Keeps key-values in memory only.
    LosesKeyValues,
    /// Takes every request as new.
    IgnoresIdempotency,
    /// Goes back without looking at what there is.
    RewindsWhatChanged,
    /// Grants what is wanted of a budget and holds nothing.
    HoldsNothing,
    /// Counts tokens and money only.
    CountsNoWork,
    /// Lets no turn wait.
    ForgetsWhoMayWait,
    /// Appends whatever happened since.
    ForgetsWhatWasSeen,
    /// Appends for whoever once held the turn.
    ForgetsWhoHolds,
    /// Says that a turn is to be cancelled and keeps nothing.
    ForgetsCancels,
    /// Ends a turn for another before it knows whether that is accepted.
    EndsBeforeLooking,
    /// Fires a schedule for whoever asks.
    FiresForEverybody,
    /// Takes sessions beyond the bound.
    CountsNoSessions,
    /// Tells of the last of several events, and keeps it not.
    LosesTheLastEvent,
    /// Keeps the first of several events twice.
    DoublesAnEvent,
    /// Reads events in another order.
    ReordersEvents,
    /// Reads as many events as are asked for, however large.
    ReadsWithoutBound,
    /// Gives a turn that somebody holds to whoever asks.
    TakesWhatIsHeld,
    /// Plans a schedule that has fired for the same time again.
    ForgetsThatItFired,
    /// Says that a session is deleted, and keeps it.
    ForgetsDeletions,
    /// Deletes a session for its age, whatever holds it.
    DeletesWhatIsHeld,
    /// Cancels a turn of a session that is being deleted.
    UsesWhatGoes,
    /// Says that deletions are ended, and leaves what is left of them.
    EndsNoDeletion,
    /// Tells everybody who gives a result that it was kept.
    TakesEveryResult,
    /// Ends a job whoever runs it.
    EndsWhatRuns,
}
