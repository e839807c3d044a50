//! What the host is configured with, and what its model says.

use fumehood_tests::world::World;

/// An approval for some files, budgets to be told of, and little room for earlier states.
pub(crate) fn config() -> String {
    r#"
[network]
private_networks = ["127.0.0.1/32"]
[files]
snapshots = "96KiB"
[schedules]
least_interval = "1s"
[retention]
sessions = "1h"
[model.main]
provider = "scripted"
script = "script.yaml"
[agent.assistant]
model = "main"
[agent.assistant.budget]
steps = 2000
tool_calls = 2000
[agent.assistant.session_budget]
tokens = 1000
tool_calls = 2000
steps = 2000
time = "1h"
[[agent.assistant.approval]]
tool = "files_write"
when = "arguments.path.startsWith('asked')"
decide = "ask"
"#
    .to_owned()
}

pub(crate) fn script(world: &World) -> String {
    let once = world.url("/once");
    format!(
        r#"
turns:
  - match: "/^work$/"
    steps:
      - text: "Working."
        tool_calls:
          - {{ tool: http_get, arguments: {{ url: "{once}" }} }}
          - {{ tool: files_write, arguments: {{ path: "notes.txt", content: "first" }} }}
          - {{ tool: clock_now, arguments: {{}} }}
          - {{ tool: files_write, arguments: {{ path: "asked.txt", content: "asked" }} }}
        usage: {{ input_tokens: 800, output_tokens: 20 }}
      - text: "Worked."
  - match: "/^hand on$/"
    steps:
      - tool_calls:
          - {{ tool: clock_now, arguments: {{}} }}
          - {{ tool: detach, arguments: {{ within_ms: 20000 }} }}
      - text: "Ended outside."
  - match: "/^in the background$/"
    steps:
      - tool_calls:
          - {{ tool: bg_again, arguments: {{ say: "again" }} }}
          - {{ tool: bg_once, arguments: {{ say: "once" }} }}
      - text: "They run."
  - match: "/^more$/"
    steps:
      - tool_calls:
          - {{ tool: files_write, arguments: {{ path: "notes.txt", content: "second" }} }}
      - text: "More."
  - match: "/^endless$/"
    repeat_last: true
    steps:
      - tool_calls: [ {{ tool: clock_now, arguments: {{}} }} ]
otherwise:
  steps:
    - text: "Heard."
"#
    )
}
