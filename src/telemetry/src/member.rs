//! What the statistics document is made of: values that are written as JSON, and read from it.
//!
//! The macro `members!` declares an object. The names of its fields are the names in the JSON, and stand nowhere else.

use std::collections::BTreeMap;

#[cfg(feature = "read")]
use serde_json::Value;

use crate::Json;

/// A value of the document.
pub trait Member: Sized {
    /// Writes it, as the member `key` or, with `None`, as an element or the whole.
    fn write(&self, j: &mut Json, key: Option<&str>);

    /// Reads it. `None` where the JSON holds something else. A file of an older or newer library, or one with a part
    /// missing or odd, still tells what it holds: an object takes the default for a member that is not there, and a map or
    /// list leaves out what it cannot read.
    #[cfg(feature = "read")]
    fn read(value: &Value) -> Option<Self>;

    /// It alone, as JSON.
    fn json(&self) -> String {
        let mut j = Json::default();
        self.write(&mut j, None);
        j.finish()
    }
}

impl Member for u64 {
    fn write(&self, j: &mut Json, key: Option<&str>) {
        j.number(key, *self);
    }

    #[cfg(feature = "read")]
    fn read(value: &Value) -> Option<Self> {
        value.as_u64().or_else(|| value.as_f64().map(|number| number as u64))
    }
}

impl Member for bool {
    fn write(&self, j: &mut Json, key: Option<&str>) {
        j.boolean(key, *self);
    }

    #[cfg(feature = "read")]
    fn read(value: &Value) -> Option<Self> {
        value.as_bool()
    }
}

impl Member for String {
    fn write(&self, j: &mut Json, key: Option<&str>) {
        j.string(key, self);
    }

    #[cfg(feature = "read")]
    fn read(value: &Value) -> Option<Self> {
        match value {
            Value::Null => None,
            Value::String(text) => Some(text.clone()),
            other => Some(other.to_string()),
        }
    }
}

/// A member that may be left out.
impl<T: Member> Member for Option<T> {
    fn write(&self, j: &mut Json, key: Option<&str>) {
        if let Some(value) = self {
            value.write(j, key);
        }
    }

    #[cfg(feature = "read")]
    fn read(value: &Value) -> Option<Self> {
        Some(T::read(value))
    }
}

impl<T: Member> Member for Vec<T> {
    fn write(&self, j: &mut Json, key: Option<&str>) {
        j.open_array(key);
        self.iter().for_each(|value| value.write(j, None));
        j.close_array();
    }

    #[cfg(feature = "read")]
    fn read(value: &Value) -> Option<Self> {
        Some(value.as_array()?.iter().filter_map(T::read).collect())
    }
}

/// An object whose names are not known beforehand.
impl<T: Member> Member for BTreeMap<String, T> {
    fn write(&self, j: &mut Json, key: Option<&str>) {
        j.open(key);
        self.iter().for_each(|(name, value)| value.write(j, Some(name)));
        j.close();
    }

    #[cfg(feature = "read")]
    fn read(value: &Value) -> Option<Self> {
        Some(value.as_object()?.iter().filter_map(|(name, value)| Some((name.clone(), T::read(value)?))).collect())
    }
}

/// Declares objects. A field is a member of its name, or of the name behind `as`. The members of the field behind `..` stand
/// among the object's own, before them.
macro_rules! members {
    (@name $field:ident) => { stringify!($field) };
    (@name $field:ident $key:literal) => { $key };
    ($(
        $(#[$doc:meta])*
        pub struct $name:ident {
            $(.. $(#[$flat_doc:meta])* $flat:ident: $flat_type:ty,)?
            $($(#[$field_doc:meta])* $field:ident $(as $key:literal)?: $type:ty,)*
        }
    )*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq)]
        pub struct $name {
            $($(#[$flat_doc])* pub $flat: $flat_type,)?
            $($(#[$field_doc])* pub $field: $type,)*
        }

        impl $name {
            fn write_members(&self, j: &mut $crate::Json) {
                $(self.$flat.write_members(j);)?
                $(self.$field.write(j, Some($crate::member::members!(@name $field $($key)?)));)*
            }

            #[cfg(feature = "read")]
            fn read_members(object: &serde_json::Value) -> Self {
                Self {
                    $($flat: <$flat_type>::read_members(object),)?
                    $($field: Member::read(&object[$crate::member::members!(@name $field $($key)?)]).unwrap_or_default(),)*
                }
            }
        }

        impl Member for $name {
            fn write(&self, j: &mut $crate::Json, key: Option<&str>) {
                j.open(key);
                self.write_members(j);
                j.close();
            }

            #[cfg(feature = "read")]
            fn read(value: &serde_json::Value) -> Option<Self> {
                value.is_object().then(|| Self::read_members(value))
            }
        }
    )*};
}
pub(crate) use members;
