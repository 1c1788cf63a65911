//! What the rules of the grammar are called in messages.

use super::rules::Rule;

/// What ends an item.
pub(super) const END: &str = "the end of the line";

/// What a rule is called in messages. Rules that only structure the grammar have no name: their
/// parts are named instead. Exhaustive, so that a new rule must decide.
pub(super) fn symbol(rule: Rule) -> Option<&'static str> {
    use Rule::*;
    Some(match rule {
        kw_import => "`import`",
        kw_as => "`as`",
        kw_program => "`program`",
        kw_param => "`param`",
        kw_private => "`private`",
        kw_model => "`model`",
        kw_dataset => "`dataset`",
        kw_space => "`space`",
        kw_stage => "`stage`",
        kw_schedule => "`schedule`",
        kw_output => "`output`",
        kw_on | on_clause => "`on`",
        kw_for | for_clause => "`for`",
        kw_in => "`in`",
        kw_when | when_clause => "`when`",
        kw_or => "`or`",
        kw_not => "`not`",
        plus | minus | times | slash => "an operator",
        compare_op => "a comparison",
        question => "`?`",
        colon => "`:`",
        equals => "`=`",
        comma => "`,`",
        dot | field => "`.`",
        less => "`<`",
        greater => "`>`",
        lparen => "`(`",
        rparen => "`)`",
        lbracket | element => "`[`",
        rbracket => "`]`",
        lbrace | block => "`{`",
        rbrace => "`}`",
        name | binding | callee => "a name",
        string => "a text in double quotes",
        number => "a number",
        ty => "a type",
        setting => "a setting",
        arg => "an argument",
        expr | operand | list | paren | call => "a value",
        EOI => END,
        item | import | program | param | schedule | output | decl => "an item",
        file | part | one_item | some_settings | some_args | arg_name | nl | comment | doc | file_doc => {
            return None;
        }
        bad_item | bad_setting | bad_arg | item_head | item_start | item_keyword => return None,
        bracketed | inside | hole => return None,
        exponent | word_char | blank | line_end | setting_end | arg_end | any_arg | gap | primary
        | byte_order_mark | lines | WHITESPACE => return None,
    })
}
