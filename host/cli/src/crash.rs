//! `FUMEHOOD_FAULT`: where this process is to be killed, in builds that have fault points. In others the variable is one that nobody
//! knows, and refused as such.

/// Arms what the environment names, and takes it out of what is read as configuration.
///
/// # Errors
/// When it names no fault point.
#[cfg(any(debug_assertions, feature = "faults"))]
pub(crate) fn arm(variables: &mut Vec<(String, String)>) -> anyhow::Result<()> {
    use anyhow::Context as _;
    const VARIABLE: &str = "FUMEHOOD_FAULT";
    for (_, fault) in variables.extract_if(.., |(name, _)| name == VARIABLE) {
        fumehood_store::faults::arm(fault.parse().context(VARIABLE)?);
    }
    Ok(())
}

/// Nothing can be armed.
#[cfg(not(any(debug_assertions, feature = "faults")))]
#[expect(
    clippy::unnecessary_wraps,
    clippy::ptr_arg,
    reason = "the same form as where there are fault points"
)]
pub(crate) const fn arm(_: &mut Vec<(String, String)>) -> anyhow::Result<()> {
    Ok(())
}
