//! JSON that is read whatever it holds: a value of the wrong type counts as missing, and so one odd field of one object
//! keeps no other object from being read. Knows nothing of Kubernetes.
//!
//! serde gives up a whole list for one wrong value. An API server checks what it stores, but not for ever by the same rules.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{
    Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer,
};

/// Texts beyond this many bytes count as missing: no name, address or port is that long.
const MAX_TEXT: usize = 1024;

/// For `#[serde(deserialize_with = …)]`.
pub(super) fn lenient<'de, D: Deserializer<'de>, T: Lenient>(deserializer: D) -> Result<T, D::Error> {
    deserializer.deserialize_any(Any(PhantomData))
}

/// What can be made of some kinds of JSON values, and is its default for all others.
pub(super) trait Lenient: Default {
    fn from_text(_: &str) -> Self {
        Self::default()
    }

    fn from_flag(_: bool) -> Self {
        Self::default()
    }

    fn from_number(_: i64) -> Self {
        Self::default()
    }

    fn from_list<'de, A: SeqAccess<'de>>(mut list: A) -> Result<Self, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Self::default())
    }

    fn from_map<'de, A: MapAccess<'de>>(mut map: A) -> Result<Self, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Self::default())
    }
}

struct Any<T>(PhantomData<T>);

impl<'de, T: Lenient> Visitor<'de> for Any<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<T, E> {
        Ok(T::from_flag(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<T, E> {
        Ok(T::from_number(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<T, E> {
        Ok(i64::try_from(value).map_or_else(|_| T::default(), T::from_number))
    }

    fn visit_f64<E>(self, _: f64) -> Result<T, E> {
        Ok(T::default())
    }

    fn visit_str<E>(self, value: &str) -> Result<T, E> {
        Ok(if value.len() <= MAX_TEXT { T::from_text(value) } else { T::default() })
    }

    fn visit_unit<E>(self) -> Result<T, E> {
        Ok(T::default())
    }

    fn visit_none<E>(self) -> Result<T, E> {
        Ok(T::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<T, A::Error> {
        T::from_list(list)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        T::from_map(map)
    }
}

/// A value by itself, as an element of a list.
struct Value<T>(T);

impl<'de, T: Lenient> Deserialize<'de> for Value<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        lenient(deserializer).map(Self)
    }
}

impl Lenient for Option<Box<str>> {
    fn from_text(text: &str) -> Self {
        Some(text.into())
    }
}

impl Lenient for Option<bool> {
    fn from_flag(flag: bool) -> Self {
        Some(flag)
    }
}

impl Lenient for Option<i64> {
    fn from_number(number: i64) -> Self {
        Some(number)
    }
}

/// A JSON value that is kept as it is.
impl Lenient for Option<serde_json::Value> {
    fn from_map<'de, A: MapAccess<'de>>(map: A) -> Result<Self, A::Error> {
        serde_json::Value::deserialize(MapAccessDeserializer::new(map)).map(Some)
    }
}

impl<T: Lenient> Lenient for Vec<T> {
    fn from_list<'de, A: SeqAccess<'de>>(mut list: A) -> Result<Self, A::Error> {
        let mut elements = Self::new();
        while let Some(Value(element)) = list.next_element()? {
            elements.push(element);
        }
        Ok(elements)
    }
}

/// Labels and annotations: what is no text is left out.
impl Lenient for BTreeMap<Box<str>, Box<str>> {
    fn from_map<'de, A: MapAccess<'de>>(mut map: A) -> Result<Self, A::Error> {
        let mut entries = Self::new();
        while let Some((key, Value(value))) = map.next_entry::<Box<str>, Value<Option<Box<str>>>>()? {
            if let Some(value) = value {
                entries.insert(key, value);
            }
        }
        Ok(entries)
    }
}

/// Makes structs readable: `Deserialize` is derived with `default`, and anything but a mapping is the default.
macro_rules! readable {
    ($($name:ty),+ $(,)?) => {
        $(impl $crate::discovery::kubernetes::lenient::Lenient for $name {
            fn from_map<'de, A: serde::de::MapAccess<'de>>(map: A) -> Result<Self, A::Error> {
                serde::Deserialize::deserialize(serde::de::value::MapAccessDeserializer::new(map))
            }
        })+
    };
}
pub(super) use readable;

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default)]
    struct Inner {
        #[serde(deserialize_with = "lenient")]
        port: Option<i64>,
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default)]
    struct Outer {
        #[serde(deserialize_with = "lenient")]
        name: Option<Box<str>>,
        #[serde(deserialize_with = "lenient")]
        inner: Inner,
        #[serde(deserialize_with = "lenient")]
        list: Vec<Inner>,
        #[serde(deserialize_with = "lenient")]
        labels: BTreeMap<Box<str>, Box<str>>,
    }
    readable!(Inner, Outer);

    fn read(value: &serde_json::Value) -> Outer {
        let Value(outer) = serde_json::from_str(&value.to_string()).expect("whatever it holds");
        outer
    }

    #[test]
    fn a_value_of_the_wrong_type_counts_as_missing_and_what_is_beside_it_is_read() {
        let odd = [
            json!(null),
            json!(true),
            json!(-3),
            json!(1.5),
            json!("x"),
            json!([1, [2]]),
            json!({"a": {"b": 1}}),
            json!(u64::MAX),
        ];
        for odd in &odd {
            let outer = read(&json!({"name": "n", "inner": odd, "list": [odd, {"port": 1}], "labels": odd}));
            assert_eq!(outer.name.as_deref(), Some("n"), "{odd}");
            assert_eq!(outer.inner, Inner::default(), "{odd}");
            assert_eq!(outer.list.last().and_then(|inner| inner.port), Some(1), "{odd}");
            let outer = read(&json!({"name": odd, "inner": {"port": 7}, "list": odd, "unknown": odd}));
            assert_eq!(outer.inner.port, Some(7), "{odd}");
            assert_eq!(outer.list.len(), if odd.is_array() { 2 } else { 0 }, "{odd}");
            assert_eq!(read(odd).list, [], "{odd}");
        }
    }

    #[test]
    fn of_labels_those_that_are_no_text_are_left_out() {
        let outer = read(&json!({"labels": {"a": "1", "b": 2, "c": {"d": 1}, "e": "5"}}));
        let keys: Vec<&str> = outer.labels.keys().map(|key| &**key).collect();
        assert_eq!(keys, ["a", "e"]);
    }

    #[test]
    fn a_text_longer_than_any_name_counts_as_missing() {
        assert_eq!(read(&json!({"name": "x".repeat(MAX_TEXT + 1)})).name, None);
    }
}
