-- Parses the pieces of a notebook (see exporters.py), each by itself, into Pandoc's own elements.
-- Foreign HTML becomes native elements, so that HTML and PDF show the same and no page loads anything from elsewhere.

local MARKDOWN = "markdown+lists_without_preceding_blankline-blank_before_header-blank_before_blockquote"
  .. "+tex_math_single_backslash+tex_math_double_backslash+autolink_bare_uris-example_lists"
  .. "-yaml_metadata_block-pandoc_title_block"
local INLINE_TAGS = { b = 1, strong = 1, i = 1, em = 1, sub = 1, sup = 1, u = 1, kbd = 1, mark = 1, small = 1, s = 1 }
local SCHEMES = { http = 1, https = 1, mailto = 1 } -- of links; nothing else is followed
local PRINTABLE = { svg = 1, png = 1, jpg = 1, jpeg = 1, gif = 1, webp = 1 }
local folder, pdf, drawn

-- The name of a new file beside the document.
local function written(data, suffix, stem)
  local name = (stem or pandoc.utils.sha1(data):sub(1, 16)) .. "." .. suffix
  local copy = io.open(name, "wb")
  if not copy then return nil end
  copy:write(data)
  copy:close()
  return name
end

-- The file of a local image, copied beside the document; nil when there is none in the notebook's folder, in the one
-- above or below those.
local function local_file(src)
  local path = src:gsub("%%(%x%x)", function(hex) return string.char(tonumber(hex, 16)) end)
  if path:match("^[/\\]") or path:match("^%a:") or path:match("%.%..*%.%.") then return nil end
  local here = io.open(path, "rb")
  if here then here:close() return path end
  local there = io.open(folder .. "/" .. path, "rb")
  if not there then return nil end
  local data = there:read("a")
  there:close()
  if not data then return nil end -- a folder
  return written(data, (path:match("%.(%w+)$") or "img"):lower())
end

-- The file of an image in a data URI (Typst reads files, not URIs); nil when it is none.
local function unpacked(uri)
  local readable, mime, data = pcall(pandoc.mediabag.fetch, uri)
  local form = readable and mime and mime:match("^image/(%a+)")
  return form and written(data, form)
end

local function escaped(text)
  return (text:gsub("[^%w ,._~:;/?@$+*'|=!-]", function(c) return ("%%%02X"):format(c:byte()) end))
end

-- The source of an SVG: a file for Typst; in the page itself, three quarters of what base64 takes.
local function drawing(svg)
  return pdf and written(svg, "svg") or "data:image/svg+xml," .. escaped(svg:gsub("%s+", " "):gsub('"', "'"))
end

local function link(element)
  local scheme = element.target:gsub("[%c%s]", ""):lower():match("^(%a[%w+.-]*):")
  if scheme and not SCHEMES[scheme] then return element.content end
end

local function image(element)
  local caption = #element.caption > 0 and element.caption or pandoc.Inlines("image")
  if element.src:match("^https?://") or element.src:match("^//") then
    return pandoc.Link(caption, element.src)
  end
  local file = element.src:match("^data:") and unpacked(element.src) or local_file(element.src)
  if not file or not PRINTABLE[(file:match("%.(%w+)$") or ""):lower()] then
    return { pandoc.Str("[image not found: "), pandoc.Span(caption), pandoc.Str("]") }
  end
  element.src = file
  element.caption = caption -- nothing stands in the page without words for those who cannot see it
  return element
end

-- TeX environments that stand alone in Jupyter's Markdown, as displayed mathematics.
local function environment(text)
  local name, body = text:match("^%s*\\begin{(%a+)%*?}(.-)\\end{%a+%*?}%s*$")
  if not name then return nil end
  local inner = { equation = "%s", align = "aligned", eqnarray = "aligned", gather = "gathered", multline = "gathered" }
  if not inner[name] then return pandoc.Math("DisplayMath", text) end
  if name == "equation" then return pandoc.Math("DisplayMath", body) end
  return pandoc.Math("DisplayMath", ("\\begin{%s}%s\\end{%s}"):format(inner[name], body, inner[name]))
end

local function raw_inline(element)
  if element.format == "tex" or element.format == "latex" then return environment(element.text) or {} end
  local slash, tag = element.text:match("^<(/?)%s*(%a+)")
  tag = tag and tag:lower()
  if tag == "br" then return pandoc.LineBreak() end
  if tag == "img" then
    return pandoc.utils.blocks_to_inlines(pandoc.read(element.text, "html").blocks):walk { Image = image }
  end
  if tag and INLINE_TAGS[tag] and not pdf then return pandoc.RawInline("html", "<" .. slash .. tag .. ">") end
  return {}
end

-- Text that reads as a number stands right in tables whose source does not say.
local function align_numbers(element)
  for column = 1, #element.colspecs do
    local numbers = false
    for _, body in ipairs(element.bodies) do
      for _, row in ipairs(body.body) do
        local cell = row.cells[column]
        local text = cell and pandoc.utils.stringify(cell.contents) or ""
        if text:match("^[%d.,+%-−±%% e]+$") or text == "NaN" then numbers = true
        elseif text ~= "" then numbers = false goto next end
      end
    end
    if numbers then element.colspecs[column] = { pandoc.AlignRight, nil } end
    ::next::
  end
  return element
end

local function html(text)
  local document = pandoc.read(text, "html")
  local plain = function(element) element.identifier, element.classes, element.attributes = "", {}, {} return element end
  return document.blocks:walk {
    Div = function(element) return element.content end,
    Span = function(element) return element.content end,
    Header = plain,
    CodeBlock = plain,
    Table = align_numbers,
    Image = image,
    Link = link,
    RawBlock = function() return {} end,
    RawInline = function() return {} end,
  }
end

-- Headings written as HTML within Markdown, "<h1 align=center>", which Pandoc reads as a tag, a paragraph and a tag.
local function headings(blocks)
  local out, i = pandoc.Blocks {}, 1
  while i <= #blocks do
    local tag, words, close = blocks[i], blocks[i + 1], blocks[i + 2]
    local level = close and tag.t == "RawBlock" and tag.text:match("^<[hH]([1-6])[%s>]")
    if level and close.t == "RawBlock" and close.text:match("^</[hH]" .. level) and words.content then
      out:insert(pandoc.Header(tonumber(level), words.content))
      i = i + 3
    else
      out:insert(tag)
      i = i + 1
    end
  end
  return out
end

-- Where a piece is from, for messages.
local function place(attributes)
  local cell = attributes.cell and attributes.cell ~= "" and ", cell " .. attributes.cell or ""
  return "notebook " .. (attributes.notebook or "") .. cell
end

local KINDS, known = { fig = "", tbl = "", sec = "", eq = "" }, {}

-- Labels and references that a notebook hides in comments are seen; those in brackets to what is not here go.
local function prepared(text)
  text = text:gsub(" ?<!%-%- ([{(%[@][^<>]-) %-%->", " %1")
  return (text:gsub(" ?%((@[^()]+)%)", function(inner)
    local rest = inner:gsub("@(%a+)%-[%w-]+", KINDS):gsub("and", "")
    if rest:match("[^%s,]") then return nil end
    local kept = {}
    for label in inner:gmatch("@([%w-]+)") do
      if known[label] then kept[#kept + 1] = "@" .. label end
    end
    return #kept > 0 and " (" .. table.concat(kept, ", ") .. ")" or ""
  end))
end

local function markdown(text, attributes)
  return headings(pandoc.read(prepared(text), MARKDOWN, { columns = 100000 }).blocks):walk {
    Image = image,
    Link = link,
    RawInline = raw_inline,
    RawBlock = function(element)
      if element.format == "html" then return html(element.text) end
      local display = environment(element.text)
      return display and pandoc.Para { display } or {}
    end,
    Cite = function(element)
      return pandoc.Span(element, { place = place(attributes) })
    end,
  }
end

local function inlines(text, attributes) return pandoc.utils.blocks_to_inlines(markdown(text, attributes)) end

-- What a figure or table has beside it: its data to save, and where it comes from. HTML has a link and a note below, the
-- PDF the data as an attachment and the rest in an appendix.
local function with_origin(element, attributes)
  local blocks, data = pandoc.Blocks { element }, attributes.data
  drawn = drawn or attributes.drawing ~= nil
  if pdf then
    local attach = '#pdf.attach("%s", relationship: "data", mime-type: "text/csv", description: "Data of %s")'
    if data then blocks:insert(pandoc.RawBlock("typst", attach:format(written(data, "csv", attributes.label), attributes.label))) end
    return blocks
  end
  if not data and not attributes.note and not attributes.drawing then return blocks end
  blocks:insert(pandoc.RawBlock("html", '<div class="origin">'))
  if attributes.drawing then
    local text = attributes.drawing:gsub("&", "&amp;"):gsub("<", "&lt;")
    blocks:insert(pandoc.RawBlock("html", '<template class="drawing">' .. text .. "</template>"))
  end
  if data then
    local link = '<a class="data" download="%s.csv" href="data:text/csv;charset=utf-8,%s" aria-label="Data (CSV) of %s">Data (CSV)</a>'
    blocks:insert(pandoc.RawBlock("html", link:format(attributes.label, escaped(data):gsub(" ", "%%20"), attributes.label)))
  end
  if attributes.note then
    blocks:insert(pandoc.RawBlock("html", '<details class="provenance"><summary>Provenance</summary>'))
    blocks:extend(markdown(attributes.note, attributes))
    blocks:insert(pandoc.RawBlock("html", "</details>"))
  end
  blocks:insert(pandoc.RawBlock("html", "</div>"))
  return blocks
end

-- Without attributes by which an element does something in a browser, or loads something.
local function quiet(element)
  local names = pandoc.List {}
  for name, value in pairs(element.attributes) do
    if name:lower():match("^on") or value:match("url%s*%(") then names:insert(name) end
  end
  for _, name in ipairs(names) do element.attributes[name] = nil end
  return element
end

local function quiet_table(element)
  local rows = pandoc.List {}
  for _, part in ipairs { element.head, element.foot } do rows:extend(part.rows) end
  for _, body in ipairs(element.bodies) do
    rows:extend(body.head)
    rows:extend(body.body)
  end
  for _, row in ipairs(rows) do
    quiet(row.attr)
    for _, cell in ipairs(row.cells) do quiet(cell.attr) end
  end
  return quiet(element)
end

local read = {}

function read.markdown(text, attributes)
  local shift = tonumber(attributes.shift) or 0
  return markdown(text, attributes):walk {
    Header = function(element)
      element.level = math.max(1, element.level + shift)
      return element
    end,
  }
end

function read.html(text) return html(text) end

function read.figure(text, attributes)
  local content = pandoc.Blocks { pandoc.Plain { pandoc.Image(attributes.alt, drawing(attributes.svg)) } }
  local caption = { pandoc.Plain(inlines(text, attributes)) }
  return with_origin(pandoc.Figure(content, caption, attributes.label), attributes)
end

function read.table(text, attributes)
  return with_origin(markdown(text, attributes):walk {
    Table = function(element)
      element.identifier = attributes.label
      element.caption = { long = { pandoc.Plain(inlines(attributes.caption, attributes)) } }
      return element
    end,
  }[1], attributes)
end

function read.appendix(text)
  return pdf and pandoc.Div(markdown(text, {}), { id = "fmnist-appendix" }) or {}
end

function read.image(_, attributes)
  local width = attributes.width ~= "" and { width = attributes.width .. "px" } or {}
  local source = attributes.svg and drawing(attributes.svg) or unpacked(attributes.src)
  return pandoc.Para { pandoc.Image(attributes.alt, source, "", width) }
end

function read.output(text) return pandoc.CodeBlock(text, { class = "output" }) end

function read.error(text) return pandoc.CodeBlock(text, { class = "output error" }) end

function Pandoc(document)
  pdf = FORMAT:match("typst") ~= nil
  folder = pandoc.utils.stringify(document.meta.folder or ".")
  local blocks = pandoc.Blocks {}
  for _, block in ipairs(document.blocks) do
    if block.t == "CodeBlock" then
      known[block.attributes.label or ""] = true
      for label in block.text:gmatch("{#(%a+%-[%w-]+)") do known[label] = true end
    end
  end
  for _, block in ipairs(document.blocks) do
    local parse = block.t == "CodeBlock" and read[block.classes[1]]
    local made = parse and parse(block.text, block.attributes) or block
    blocks:extend(pandoc.utils.type(made) == "Blocks" and made or { made })
  end
  local first = blocks[1]
  if not document.meta.report and first and first.t == "Header" and first.level == 1 then
    document.meta.title = pandoc.MetaInlines(first.content)
    blocks:remove(1)
  end
  document.meta.drawn = drawn
  local doing = {}
  for _, kind in ipairs { "Header", "Link", "Image", "Code", "CodeBlock", "Div", "Span", "Figure" } do doing[kind] = quiet end
  doing.Table = quiet_table
  blocks = blocks:walk(doing)
  local clean = { Image = image, Link = link, RawInline = raw_inline, RawBlock = function() return {} end }
  return pandoc.Pandoc(blocks, pandoc.Pandoc({}, document.meta):walk(clean):walk(doing).meta)
end
