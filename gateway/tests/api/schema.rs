//! Holds values against the schemas of the document: as much of JSON Schema as the document uses, and stricter where it
//! says nothing: a member that is not described is wrong.

use serde_json::Value;

/// Whether unknown members and ids as strings are let through: a client may send them, the gateway never does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Sent,
    Answered,
}

/// Checks a value; the error says where it is wrong.
pub(crate) fn check(
    document: &Value,
    schema: &Value,
    value: &Value,
    side: Side,
) -> Result<(), String> {
    Checker { document, side }.check(schema, value, "$")
}

struct Checker<'a> {
    document: &'a Value,
    side: Side,
}

impl Checker<'_> {
    fn check(&self, schema: &Value, value: &Value, at: &str) -> Result<(), String> {
        if let Some(reference) = schema["$ref"].as_str() {
            let target = self.document.pointer(reference.trim_start_matches('#'));
            return self.check(target.ok_or(format!("{reference} is nowhere"))?, value, at);
        }
        if let Some(either) = schema["oneOf"].as_array() {
            let fitting = either
                .iter()
                .filter(|one| self.check(one, value, at).is_ok())
                .count();
            return if fitting == 1 {
                Ok(())
            } else {
                Err(format!("{at}: {value} fits {fitting} of {schema}"))
            };
        }
        if let Some(values) = schema["enum"].as_array()
            && !values.contains(value)
        {
            return Err(format!("{at}: {value} is none of {}", schema["enum"]));
        }
        if !self.has_type(&schema["type"], value) {
            return Err(format!("{at}: {value} is no {}", schema["type"]));
        }
        self.check_bounds(schema, value, at)?;
        self.check_time(schema, value, at)?;
        self.check_members(schema, value, at)?;
        for (index, item) in value.as_array().into_iter().flatten().enumerate() {
            self.check(&schema["items"], item, &format!("{at}[{index}]"))?;
        }
        Ok(())
    }

    fn has_type(&self, types: &Value, value: &Value) -> bool {
        let is = |name: &str| match name {
            "null" => value.is_null(),
            "boolean" => value.is_boolean(),
            "integer" => {
                value.is_i64() || (self.side == Side::Sent && value.as_str().is_some_and(is_digits))
            }
            "string" => value.is_string(),
            "array" => value.is_array(),
            "object" => value.is_object(),
            _ => false,
        };
        match types {
            Value::String(one) => is(one),
            Value::Array(any) => any.iter().filter_map(Value::as_str).any(is),
            _ => false,
        }
    }

    fn check_bounds(&self, schema: &Value, value: &Value, at: &str) -> Result<(), String> {
        let number = value.as_f64();
        let length = value.as_str().map(|text| text.chars().count() as f64);
        let items = value.as_array().map(|items| items.len() as f64);
        for (least, most, size) in [
            ("minimum", "maximum", number),
            ("minLength", "maxLength", length),
            ("minItems", "maxItems", items),
        ] {
            let Some(size) = size else { continue };
            if schema[least].as_f64().is_some_and(|least| size < least)
                || schema[most].as_f64().is_some_and(|most| size > most)
            {
                return Err(format!("{at}: {value} is not within {least} and {most}"));
            }
        }
        Ok(())
    }

    /// Times have milliseconds and `Z`.
    fn check_time(&self, schema: &Value, value: &Value, at: &str) -> Result<(), String> {
        let (Some("date-time"), Some(text)) = (schema["format"].as_str(), value.as_str()) else {
            return Ok(());
        };
        let parsed = chrono::DateTime::parse_from_rfc3339(text);
        let is_good =
            parsed.is_ok() && text.len() == "2023-11-14T22:13:20.000Z".len() && text.ends_with('Z');
        if is_good {
            Ok(())
        } else {
            Err(format!("{at}: {text} is no time"))
        }
    }

    fn check_members(&self, schema: &Value, value: &Value, at: &str) -> Result<(), String> {
        let (Some(object), Some(members)) = (value.as_object(), schema["properties"].as_object())
        else {
            return Ok(());
        };
        for name in schema["required"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
        {
            if !object.contains_key(name) {
                return Err(format!("{at}: {name} is missing"));
            }
        }
        for (name, value) in object {
            match members.get(name) {
                Some(schema) => self.check(schema, value, &format!("{at}.{name}"))?,
                None if self.side == Side::Sent => {}
                None => return Err(format!("{at}: {name} is not described")),
            }
        }
        Ok(())
    }
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[test]
fn the_checker_finds_what_is_wrong() {
    use serde_json::json;

    let document = json!({"components": {"schemas": {"Id": {"type": "integer", "minimum": 1}}}});
    let schema = json!({
        "type": "object",
        "required": ["id"],
        "properties": {
            "id": {"$ref": "#/components/schemas/Id"},
            "at": {"oneOf": [{"type": "string", "format": "date-time"}, {"type": "null"}]},
            "list": {"type": "array", "maxItems": 2, "items": {"type": "string", "enum": ["a", "b"]}},
            "name": {"type": "string", "minLength": 1, "maxLength": 2},
        },
    });
    let is_good = |value: Value| check(&document, &schema, &value, Side::Answered).is_ok();
    assert!(is_good(json!({"id": 1, "at": null, "list": ["a", "b"]})));
    assert!(is_good(json!({"id": 1, "name": "\u{e4}b"})));
    assert!(is_good(json!({"id": 1, "at": "2023-11-14T22:13:20.000Z"})));
    for bad in [
        json!({}),
        json!([]),
        json!({"id": 0}),
        json!({"id": "1"}),
        json!({"id": 1, "more": 1}),
        json!({"id": 1, "at": "2023-11-14T22:13:20Z"}),
        json!({"id": 1, "list": ["c"]}),
        json!({"id": 1, "list": ["a", "a", "a"]}),
        json!({"id": 1, "name": ""}),
        json!({"id": 1, "name": "abc"}),
    ] {
        assert!(!is_good(bad.clone()), "{bad}");
    }
}
