//! The answer of a turn that has an output schema: read as JSON, and checked.

use super::Driver;
use crate::schema::Misfit;
use fumehood_core::event::{EventBody, NewEvent};
use serde_json::Value;

impl Driver {
    /// What to record of the answer: that it follows the schema, or why not.
    pub(super) fn validate_output(&self, attempt: u32) -> NewEvent {
        let machine = &self.recorder.machine;
        let checked = read(machine.last_text()).and_then(|value| match &self.plan.output {
            None => Ok(value),
            Some(schema) => match schema.check(&value) {
                Ok(()) => Ok(value),
                Err(Misfit::Faults(faults)) => Err(faults),
                Err(Misfit::TooCostly) => Err(vec![Misfit::TooCostly.to_string()]),
            },
        });
        machine.event(match checked {
            Ok(value) => EventBody::OutputValidated { attempt, value },
            Err(mut faults) => {
                if machine.answer_is_cut() {
                    faults.insert(
                        0,
                        "it reached the output limit and was cut off there: answer with less".into(),
                    );
                }
                EventBody::OutputRejected { attempt, faults }
            }
        })
    }
}

/// Models like to put their JSON between the marks of a code block, whatever they are told.
fn read(text: &str) -> Result<Value, Vec<String>> {
    let text = text.trim();
    let inner = text
        .strip_prefix("```")
        .and_then(|rest| rest.strip_suffix("```"))
        .and_then(|rest| rest.split_once('\n'))
        .map_or(text, |(_language, inner)| inner);
    serde_json::from_str(inner.trim()).map_err(|error| vec![format!("it is not JSON: {error}")])
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_marks_of_a_code_block_are_passed_over() {
        for text in [
            "{\"a\": 1}",
            " {\"a\":1}\n",
            "```json\n{\"a\": 1}\n```",
            "```\n{\"a\": 1}```",
        ] {
            assert_eq!(read(text), Ok(json!({"a": 1})), "{text}");
        }
    }

    #[test]
    fn what_is_no_json_says_so() {
        for text in ["", "Here it is: {}", "```json\n{```", "```{}```"] {
            let faults = read(text).unwrap_err();
            assert!(faults[0].starts_with("it is not JSON"), "{text}: {faults:?}");
        }
    }
}
