//! Many Lua functions in one script, and one call for many operations.
//!
//! The script is sent by EVALSHA, which every Redis and Valkey has, and given to the server anew where that has lost it. It makes its functions, then runs one item after the
//! other, each for itself: an item that fails touches no other.

use async_trait::async_trait;
use redis::{Script, Value};

use crate::{Call, Item, Link, LinkError, Rider};

/// What runs the items. `find` makes the function of that name, at its first use in the call.
///
/// ARGV: for each item its function's name, how many keys and how many arguments it has, then the arguments. KEYS: all keys, in the items' order.
/// Returns for each item {1, its answer} or {0, why it failed}.
const DISPATCH: &str = "\
local answers, key, place = {}, 1, 1
while place <= #ARGV do
  local keys, arguments = {}, {}
  for i = 1, tonumber(ARGV[place + 1]) do
    keys[i] = KEYS[key]
    key = key + 1
  end
  local count = tonumber(ARGV[place + 2])
  for i = 1, count do arguments[i] = ARGV[place + 2 + i] end
  local done, answer = pcall(find(ARGV[place]), keys, arguments)
  if not done and type(answer) == 'table' then answer = answer.err end
  answers[#answers + 1] = { done and 1 or 0, done and answer or tostring(answer) }
  place = place + 3 + count
end
return answers
";

/// A library of Lua functions on one server.
#[derive(Debug, Clone)]
pub struct ScriptLibrary {
    link: Link,
    script: Script,
}

impl ScriptLibrary {
    /// A library of `functions`, each a name and the body of a function of `KEYS` and `ARGV`, behind what they share. Calls go over `link`.
    #[must_use]
    pub fn new(link: Link, shared: &str, functions: &[(&str, &str)]) -> Self {
        let mut text =
            format!("{shared}\nlocal functions = {{}}\nlocal function find(name)\nif functions[name] then return functions[name] end\n");
        for (name, body) in functions {
            text.push_str(&format!("if name == '{name}' then functions[name] = function(KEYS, ARGV)\n{body}\nend end\n"));
        }
        text.push_str("return functions[name]\nend\n");
        text.push_str(DISPATCH);
        Self { link, script: Script::new(&text) }
    }

    /// Runs one item that carries much, beside the quick calls.
    ///
    /// # Errors
    /// See [`LinkError`].
    pub async fn run_large(&self, item: Item) -> Result<Value, LinkError> {
        let answer: Vec<(bool, Value)> = self.link.invoke_large(&self.invocation(std::slice::from_ref(&item))).await?;
        answers(answer).pop().unwrap_or_else(|| Err(LinkError::Garbled("no answer".to_owned())))
    }

    fn invocation(&self, items: &[Item]) -> redis::ScriptInvocation<'_> {
        let mut invocation = self.script.prepare_invoke();
        for Item { function, keys, arguments } in items {
            for key in keys {
                invocation.key(key);
            }
            invocation.arg(*function).arg(keys.len()).arg(arguments.len());
            for argument in arguments {
                invocation.arg(argument.as_slice());
            }
        }
        invocation
    }
}

fn answers(each: Vec<(bool, Value)>) -> Vec<Result<Value, LinkError>> {
    each.into_iter().map(|(done, answer)| Rider::ridden(done, answer)).collect()
}

#[async_trait]
impl Call for ScriptLibrary {
    async fn call(&self, items: &[Item]) -> Result<Vec<Result<Value, LinkError>>, LinkError> {
        let each: Vec<(bool, Value)> = self.link.invoke(&self.invocation(items)).await?;
        if each.len() != items.len() {
            return Err(LinkError::Garbled(format!("{} answers to {} operations", each.len(), items.len())));
        }
        Ok(answers(each))
    }
}
