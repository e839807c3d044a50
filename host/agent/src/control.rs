//! Tools of the host itself: a model reads skills with them, and finds tools where there are too many to show.
//!
//! They look up what the host has and touch nothing outside the turn, so they run in the host, without sandbox, authority or
//! account. Their names are theirs: an org's tool of such a name is not offered where they are.

use crate::skills::Skill;
use fumehood_core::{
    call::{Arguments, CallError, CallErrorCode, CallResult, Output},
    content::Content,
    name::ToolName,
    tool::{Effect, ToolDefinition},
};
use serde_json::{Value, json};
use std::{fmt::Write as _, sync::Arc};

/// Reads a skill.
const SKILL_LOAD: &str = "skill_load";
/// Finds tools.
const TOOL_SEARCH: &str = "tool_search";
/// Makes tools callable.
const TOOL_LOAD: &str = "tool_load";
/// What a search finds if not told, and at most.
const FOUND: (usize, usize) = (10, 50);

/// The host's own tools of one turn.
#[derive(Debug, Clone, Default)]
pub(crate) struct ControlTools {
    skills: Arc<[Arc<Skill>]>,
    /// Every tool that the model may load; `None`: it is shown all of them.
    searched: Option<Arc<[ToolDefinition]>>,
}

impl ControlTools {
    pub(crate) const fn new(skills: Arc<[Arc<Skill>]>, searched: Option<Arc<[ToolDefinition]>>) -> Self {
        Self { skills, searched }
    }

    /// Whether it is one of them.
    pub(crate) fn has(&self, tool: &str) -> bool {
        match tool {
            SKILL_LOAD => !self.skills.is_empty(),
            TOOL_SEARCH | TOOL_LOAD => self.searched.is_some(),
            _ => false,
        }
    }

    /// What the model is told of them, and of the tools it has loaded: what was loaded last stands last, so that what a provider has
    /// cached stays the same.
    pub(crate) fn definitions(&self, all: &Arc<[ToolDefinition]>, loaded: &[ToolName]) -> Arc<[ToolDefinition]> {
        let mut own = Vec::new();
        if !self.skills.is_empty() {
            own.extend(definition(
                SKILL_LOAD,
                "Reads the instructions of a skill, or one of its other files. Read them before you do what the skill is for.",
                json!({"type": "object", "required": ["name"], "additionalProperties": false, "properties": {
                    "name": {"type": "string", "description": "The skill."},
                    "file": {"type": "string", "description": "One of its other files."},
                }}),
            ));
        }
        let Some(searched) = &self.searched else {
            if own.is_empty() {
                return Arc::clone(all);
            }
            own.extend(all.iter().filter(|tool| !self.has(&tool.name)).cloned());
            return own.into();
        };
        own.extend(definition(
            TOOL_SEARCH,
            &format!(
                "Searches the names and descriptions of the {} tools there are. Load those you need before you call them.",
                searched.len()
            ),
            json!({"type": "object", "required": ["query"], "additionalProperties": false, "properties": {
                "query": {"type": "string", "description": "Words that should occur; empty lists all."},
                "limit": {"type": "integer", "minimum": 1, "maximum": FOUND.1, "default": FOUND.0},
            }}),
        ));
        own.extend(definition(
            TOOL_LOAD,
            "Makes tools callable, from your next step on.",
            json!({"type": "object", "required": ["names"], "additionalProperties": false, "properties": {
                "names": {"type": "array", "minItems": 1, "maxItems": FOUND.1, "items": {"type": "string"}},
            }}),
        ));
        let find = |name: &ToolName| searched.iter().find(|tool| tool.name == *name).cloned();
        own.extend(loaded.iter().filter_map(find));
        own.into()
    }

    /// Runs one of them.
    pub(crate) fn run(&self, tool: &str, arguments: &Arguments) -> CallResult {
        match tool {
            SKILL_LOAD => self.skill(arguments),
            TOOL_SEARCH => Ok(self.search(arguments)),
            _ => self.load(arguments),
        }
    }

    /// What the instructions say of the skills.
    pub(crate) fn instructions(&self) -> Option<String> {
        if self.skills.is_empty() {
            return None;
        }
        let mut text = format!("You have these skills. Before you use one, read it with `{SKILL_LOAD}`:");
        for skill in self.skills.iter() {
            let _ = write!(text, "\n- {}: {}", skill.name, skill.description);
        }
        Some(text)
    }

    fn skill(&self, arguments: &Arguments) -> CallResult {
        let name = text(arguments, "name")?;
        let skill = self.skills.iter().find(|skill| skill.name.as_str() == name);
        let Some(skill) = skill else {
            let names: Vec<_> = self.skills.iter().map(|skill| skill.name.as_str()).collect();
            return Err(invalid(format!(
                "there is no such skill; there are: {}",
                names.join(", ")
            )));
        };
        let names: Vec<_> = skill.files.keys().map(String::as_str).collect();
        let said = match arguments.get("file") {
            None if names.is_empty() => skill.body.clone(),
            None => format!("{}\n\n[Other files of this skill: {}]", skill.body, names.join(", ")),
            Some(_) => {
                let file = text(arguments, "file")?;
                skill
                    .files
                    .get(file)
                    .cloned()
                    .ok_or_else(|| invalid(format!("the skill has no such file; it has: {}", names.join(", "))))?
            }
        };
        Ok(Output {
            content: vec![Content::text(said)],
            ..Output::default()
        })
    }

    fn search(&self, arguments: &Arguments) -> Output {
        let query = arguments.get("query").and_then(Value::as_str).unwrap_or_default();
        let words: Vec<_> = query.split_whitespace().map(str::to_lowercase).collect();
        let limit = arguments.get("limit").and_then(Value::as_u64);
        let limit = limit.map_or(FOUND.0, |limit| {
            usize::try_from(limit).unwrap_or(FOUND.1).clamp(1, FOUND.1)
        });
        let mut found: Vec<_> = self
            .searched
            .iter()
            .flat_map(|tools| tools.iter())
            .filter_map(|tool| Some((rank(tool, &words)?, tool)))
            .collect();
        // The order within a rank stays: by name.
        found.sort_by_key(|(rank, _)| *rank);
        let more = found.len().saturating_sub(limit);
        let shown: Vec<_> = found
            .iter()
            .take(limit)
            .map(|(_, tool)| json!({"name": tool.name, "description": tool.description}))
            .collect();
        Output {
            content: vec![Content::Json {
                json: json!({"tools": shown, "more": more}),
            }],
            ..Output::default()
        }
    }

    fn load(&self, arguments: &Arguments) -> CallResult {
        let wanted: Vec<_> = match arguments.get("names") {
            Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).take(FOUND.1).collect(),
            _ => return Err(invalid("`names` has to be a list of names of tools".into())),
        };
        let known = |name: &&str| {
            self.searched
                .iter()
                .any(|tools| tools.iter().any(|tool| *tool.name == **name))
        };
        let (loaded, unknown): (Vec<_>, Vec<_>) = wanted.into_iter().partition(known);
        if loaded.is_empty() {
            return Err(invalid(format!(
                "there are no such tools: find them with `{TOOL_SEARCH}`"
            )));
        }
        let value = json!({"loaded": loaded, "unknown": unknown});
        Ok(Output {
            content: vec![Content::Json { json: value.clone() }],
            structured: Some(value),
            ..Output::default()
        })
    }
}

/// Whether a name is one of the host's own tools, whether or not a turn has them.
pub(crate) fn is_reserved(tool: &str) -> bool {
    matches!(tool, SKILL_LOAD | TOOL_SEARCH | TOOL_LOAD)
}

/// The tools that a result made callable, if it is of the tool that does.
pub(crate) fn loaded_by(tool: &str, output: &Output) -> Vec<ToolName> {
    let names = match &output.structured {
        Some(structured) if tool == TOOL_LOAD => structured["loaded"].as_array(),
        _ => None,
    };
    let names = names.into_iter().flatten().filter_map(Value::as_str);
    names.filter_map(|name| ToolName::new(name).ok()).collect()
}

/// How well a tool fits: all words in its name, or in its description as well; `None` where one is missing.
fn rank(tool: &ToolDefinition, words: &[String]) -> Option<u8> {
    let description = tool.description.to_lowercase();
    if words.iter().all(|word| tool.name.contains(word.as_str())) {
        return Some(0);
    }
    let fits = |word: &String| tool.name.contains(word.as_str()) || description.contains(word.as_str());
    words.iter().all(fits).then_some(1)
}

fn text<'a>(arguments: &'a Arguments, key: &str) -> Result<&'a str, CallError> {
    let value = arguments.get(key).and_then(Value::as_str);
    value.ok_or_else(|| invalid(format!("`{key}` has to be a text")))
}

fn invalid(message: String) -> CallError {
    CallError::new(CallErrorCode::InvalidArguments, message)
}

fn definition(name: &str, description: &str, input_schema: Value) -> Option<ToolDefinition> {
    Some(ToolDefinition {
        name: ToolName::new(name).ok()?,
        title: None,
        description: description.to_owned(),
        input_schema,
        output_schema: None,
        effect: Effect::Pure,
        read_only: true,
        destructive: false,
        open_world: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use fumehood_core::name::SkillName;

    fn tool(name: &str, description: &str) -> ToolDefinition {
        definition(name, description, json!({"type": "object"})).unwrap()
    }

    fn many() -> ControlTools {
        let tools = [
            tool("files_read", "Reads a file."),
            tool("http_get", "Gets a page, or a file, from a server."),
            tool("mail_send", "Sends mail."),
        ];
        ControlTools::new([].into(), Some(tools.into()))
    }

    fn run(tools: &ControlTools, tool: &str, arguments: Value) -> CallResult {
        let Value::Object(arguments) = arguments else {
            panic!("an object")
        };
        tools.run(tool, &arguments)
    }

    fn names(output: &Output) -> Vec<String> {
        let Content::Json { json } = &output.content[0] else {
            panic!("{output:?}")
        };
        let tools = json["tools"].as_array().unwrap().iter();
        tools.map(|tool| tool["name"].as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn a_search_finds_by_name_first_and_by_description_then() {
        let tools = many();
        let found = |query: &str| names(&run(&tools, TOOL_SEARCH, json!({"query": query})).unwrap());
        assert_eq!(found("FILE"), ["files_read", "http_get"]);
        assert_eq!(found("page server"), ["http_get"]);
        assert_eq!(found("").len(), 3);
        assert!(found("calendar").is_empty());
        let one = run(&tools, TOOL_SEARCH, json!({"query": "", "limit": 1})).unwrap();
        assert_eq!(
            (names(&one).len(), one.content[0].as_plain_text().contains("\"more\":2")),
            (1, true)
        );
    }

    #[test]
    fn what_is_loaded_is_offered_in_the_order_of_loading() {
        let tools = many();
        let output = run(
            &tools,
            TOOL_LOAD,
            json!({"names": ["mail_send", "nothing", "files_read"]}),
        )
        .unwrap();
        let loaded = loaded_by(TOOL_LOAD, &output);
        let all: Arc<[ToolDefinition]> = Arc::default();
        let offered = tools.definitions(&all, &loaded);
        let offered: Vec<_> = offered.iter().map(|tool| tool.name.as_str()).collect();
        assert_eq!(offered, ["tool_search", "tool_load", "mail_send", "files_read"]);
        assert!(loaded_by("mail_send", &output).is_empty(), "only the host loads tools");
        assert!(run(&tools, TOOL_LOAD, json!({"names": ["nothing"]})).is_err());
        assert!(run(&tools, TOOL_LOAD, json!({"names": "mail_send"})).is_err());
    }

    #[test]
    fn a_skill_is_read_on_demand() {
        let skill = Skill {
            name: SkillName::new("review").unwrap(),
            description: "Reviews.".into(),
            body: "Look twice.".into(),
            files: [("list.md".to_owned(), "1. Look".to_owned())].into(),
        };
        let tools = ControlTools::new([Arc::new(skill)].into(), None);
        let instructions = tools.instructions().unwrap();
        assert!(instructions.contains("- review: Reviews.") && !instructions.contains("Look twice"));
        let said = |arguments| run(&tools, SKILL_LOAD, arguments).map(|output| output.content[0].as_plain_text());
        assert_eq!(
            said(json!({"name": "review"})).unwrap(),
            "Look twice.\n\n[Other files of this skill: list.md]"
        );
        assert_eq!(said(json!({"name": "review", "file": "list.md"})).unwrap(), "1. Look");
        for refused in [
            json!({}),
            json!({"name": "x"}),
            json!({"name": "review", "file": "../x"}),
            json!({"name": 3}),
        ] {
            assert_eq!(said(refused).unwrap_err().code, CallErrorCode::InvalidArguments);
        }
    }

    #[test]
    fn a_tool_with_the_name_of_one_of_the_hosts_is_not_offered_beside_it() {
        let skill = Skill {
            name: SkillName::new("review").unwrap(),
            description: "Reviews.".into(),
            body: String::new(),
            files: std::collections::BTreeMap::new(),
        };
        let tools = ControlTools::new([Arc::new(skill)].into(), None);
        let all: Arc<[ToolDefinition]> = [tool("skill_load", "A stranger's."), tool("x", "X.")].into();
        let offered = tools.definitions(&all, &[]);
        assert_eq!(offered.len(), 2);
        assert!(!offered.iter().any(|tool| tool.description == "A stranger's."));
    }
}
