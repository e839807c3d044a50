//! What a component says of its tools: whether a model can tell when and how to use them.

use super::{Facts, Finding, Lint};
use fumehood_core::tool::{Effect, ToolDefinition};
use fumehood_sandbox::{ComponentKind, SIGNATURE_ONLY};
use std::collections::{HashMap, hash_map::Entry};

/// Names that any component could have.
const VAGUE: [&str; 20] = [
    "action", "call", "command", "do", "exec", "execute", "function", "get", "handle", "invoke", "list", "main",
    "process", "query", "read", "run", "search", "test", "tool", "write",
];
/// Fewer words than a model needs.
const FEWEST_WORDS: usize = 3;
/// More than a description should cost in every request.
const LONGEST: usize = 2000;

pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(facts.tools.iter().filter_map(vague));
    findings.extend(facts.tools.iter().filter_map(contradicted));
    if facts.kind == ComponentKind::PlainFunctions {
        let mut bare = facts
            .tools
            .iter()
            .filter(|tool| is_bare(tool))
            .map(|tool| tool.name.as_str());
        if let Some(first) = bare.next() {
            let others = match bare.count() {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            findings.push(Finding::new(
                Lint::FunctionsUndescribed,
                format!("`{first}`{others} is a plain function, of which a model sees only the signature"),
                "put the doc comments of its WIT into the component, as `wit-docs-inject` does, choose telling names, or export \
                 fumehood:tool/tools, which has descriptions",
            ));
        }
    }
    findings.extend(left_out(facts));
    findings.extend(facts.tools.iter().filter(|tool| !is_bare(tool)).filter_map(length));
    findings.extend(repeated(&facts.tools));
    findings
}

/// What each of them lacks stands where they are listed.
fn left_out(facts: &Facts) -> Option<Finding> {
    let [first, others @ ..] = facts.left_out.as_slice() else {
        return None;
    };
    let (others, verb) = match others.len() {
        0 => (String::new(), "is"),
        more => (format!(" and {more} more"), "are"),
    };
    Some(Finding::new(
        Lint::FunctionsLeftOut,
        format!(
            "`{}`{others} {verb} exported and can't be called as a tool",
            first.function
        ),
        "have functions take and return plain values, give each a name of its own, or export what is meant for other components in a world of its own",
    ))
}

/// Whether the host itself described it.
fn is_bare(tool: &ToolDefinition) -> bool {
    tool.description.starts_with(SIGNATURE_ONLY)
}

fn vague(tool: &ToolDefinition) -> Option<Finding> {
    let name = tool.name.as_str();
    VAGUE.contains(&name).then(|| {
        Finding::new(
            Lint::NameVague,
            format!("the name of the tool `{name}` does not say what it does, and others' tools may have it too"),
            format!("name it by what it acts on, such as `{name}_issue`"),
        )
    })
}

fn contradicted(tool: &ToolDefinition) -> Option<Finding> {
    let says = match (tool.destructive, tool.read_only, tool.effect) {
        (true, true, _) => "`read_only`",
        (true, false, Effect::Pure) => "`pure`",
        _ => return None,
    };
    Some(Finding::new(
        Lint::EffectContradicted,
        format!("the tool `{}` says that it is {says}, and `destructive`", tool.name),
        "keep what is true: what may destroy something is neither read-only nor pure",
    ))
}

fn length(tool: &ToolDefinition) -> Option<Finding> {
    let letters = |text: &str| -> String { text.to_lowercase().chars().filter(|c| c.is_alphanumeric()).collect() };
    let (name, text) = (tool.name.as_str(), tool.description.trim());
    if text.chars().count() > LONGEST {
        return Some(Finding::new(
            Lint::DescriptionLong,
            format!(
                "the description of the tool `{name}` has {} characters, and every request to a model carries it",
                text.chars().count()
            ),
            format!("say it in {LONGEST}, and move what is about one parameter to that parameter"),
        ));
    }
    let title = tool.title.as_deref().unwrap_or_default();
    let again = [name, title].iter().any(|known| letters(known) == letters(text));
    (again || words(text) < FEWEST_WORDS).then(|| {
        Finding::new(
            Lint::DescriptionShort,
            format!("the description of the tool `{name}` says little: \"{text}\""),
            "write a sentence: what it does, when to use it, what it returns",
        )
    })
}

/// How many words a text has, at most: of scripts that put nothing between words, each letter may be one.
fn words(text: &str) -> usize {
    let unspaced = |c: char| {
        // Thai and Lao; Burmese; Khmer; Chinese, Japanese and their neighbours.
        matches!(c, '\u{0e00}'..='\u{0eff}' | '\u{1000}'..='\u{109f}' | '\u{1780}'..='\u{17ff}' | '\u{2e80}'..)
            && c.is_alphanumeric()
    };
    let spaced = text
        .split(|c: char| c.is_whitespace() || unspaced(c))
        .filter(|word| word.contains(char::is_alphanumeric));
    spaced.count() + text.chars().filter(|c| unspaced(*c)).count()
}

fn repeated(tools: &[ToolDefinition]) -> Vec<Finding> {
    let mut known: HashMap<String, &ToolDefinition> = HashMap::new();
    let mut findings = Vec::new();
    for tool in tools {
        let words: Vec<&str> = tool.description.split_whitespace().collect();
        match known.entry(words.join(" ").to_lowercase()) {
            Entry::Vacant(vacant) => {
                vacant.insert(tool);
            }
            Entry::Occupied(first) => findings.push(Finding::new(
                Lint::DescriptionRepeated,
                format!(
                    "the tools `{}` and `{}` have the same description",
                    first.get().name,
                    tool.name
                ),
                "say of each when to use it rather than the other",
            )),
        }
    }
    findings
}
