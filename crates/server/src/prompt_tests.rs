//! How models are told of tools whose templates write calls in no way known here.

use serde_json::json;

use super::*;

const PLAIN_TEMPLATE: &str =
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]";

fn rendered(source: &str, messages: &[Message]) -> Result<String, String> {
    let template = ChatTemplate::unguarded(source, "<s>", "</s>").unwrap();
    render_told(&template, messages, &RenderOptions::default(), "TOOLS")
        .map(|prompt| prompt.text)
        .map_err(|error| error.to_string())
}

#[test]
fn tools_are_told_where_the_template_shows_them() {
    let user = [Message::new("user", "hi")];
    assert_eq!(rendered(PLAIN_TEMPLATE, &user).unwrap(), "[system]TOOLS[user]hi[assistant]");
    let both = [Message::new("system", "Be brief."), Message::new("user", "hi")];
    let expected = "[system]Be brief.\n\nTOOLS[user]hi[assistant]";
    assert_eq!(rendered(PLAIN_TEMPLATE, &both).unwrap(), expected);
    // One that passes system messages by, and one that refuses them.
    let deaf = format!(
        "{{% set messages = messages | rejectattr('role', 'eq', 'system') %}}{PLAIN_TEMPLATE}"
    );
    assert_eq!(rendered(&deaf, &user).unwrap(), "[user]TOOLS\n\nhi[assistant]");
    let strict = format!(
        "{{% if messages[0].role == 'system' %}}{{{{ raise_exception('no system') }}}}{{% endif %}}{PLAIN_TEMPLATE}"
    );
    assert_eq!(rendered(&strict, &user).unwrap(), "[user]TOOLS\n\nhi[assistant]");
    // A system message of the user's own it still refuses.
    assert!(rendered(&strict, &both).unwrap_err().contains("no system"));
}

#[test]
fn results_and_what_follows_them_are_one_message() {
    let mut call = Message::new("assistant", "");
    call.fields.insert("tool_calls".to_owned(), json!([{"function": {"name": "f"}}]));
    let messages = vec![
        Message::new("user", "hi"),
        call,
        Message::new("tool", "1"),
        Message::new("tool", "2"),
        Message::new("user", "and?"),
        Message::new("assistant", "so"),
        Message::new("user", "a"),
        Message::new("user", "b"),
    ];
    let mut conversation = Conversation { messages, ..Conversation::default() };
    conversation.calls_as_text();
    let all: Vec<_> = conversation
        .messages
        .iter()
        .map(|message| (message.role.as_str(), message.content.as_str().unwrap()))
        .collect();
    let results =
        "<tool_response>\n1\n</tool_response>\n<tool_response>\n2\n</tool_response>\nand?";
    let expected = [
        ("user", "hi"),
        ("assistant", "<tool_call>\n{\"name\":\"f\"}\n</tool_call>"),
        ("user", results),
        ("assistant", "so"),
        ("user", "a"),
        ("user", "b"),
    ];
    assert_eq!(all, expected);
}
